"""What the names in a checkpoint tell: which tensors are the encoder's, and what model it is."""
