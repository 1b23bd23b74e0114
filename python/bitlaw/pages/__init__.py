"""What people look at: figures and self-contained pages, in one style."""
