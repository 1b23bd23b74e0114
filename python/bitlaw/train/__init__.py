"""Training: text into rows, one compiled step per model and structure, runs that share a trunk."""
