"""What devices ask for."""
