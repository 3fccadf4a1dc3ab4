"""Data sets as random-access sources of decoded images."""
