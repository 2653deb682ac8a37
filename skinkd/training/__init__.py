"""One training run, from the split to its scores."""
