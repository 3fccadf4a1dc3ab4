"""Speed of the parts."""
