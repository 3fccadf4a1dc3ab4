"""What is converted."""
