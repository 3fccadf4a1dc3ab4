"""Faults that are made on purpose, on real worker processes."""
