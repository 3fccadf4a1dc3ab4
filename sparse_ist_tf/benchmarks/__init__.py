"""Speed of the parts, what hidden pixels leak, and faults."""
