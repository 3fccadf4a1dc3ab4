"""The files that are made, and what runs them."""
