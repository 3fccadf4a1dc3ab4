"""A device: its pictures, its subnet, and its end of the wire; without TensorFlow."""
