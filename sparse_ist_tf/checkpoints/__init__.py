"""Others' weights, read and written."""
