"""The language model: plain functions over trees of arrays; a scheme is handed in."""
