"""Pre-training of an encoder."""
