"""One file per command of the command line: a dataclass whose fields are its options."""
