"""Processes that work together, and what passes between them."""
