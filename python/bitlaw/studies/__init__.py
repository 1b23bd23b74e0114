"""Studies: jobs that train, rows they leave, and reports made of them."""
