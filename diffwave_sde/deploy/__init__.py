"""A model as a graph: what runs where this package, or PyTorch itself, is not."""
