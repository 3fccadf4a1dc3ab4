"""A run, from its configuration to its finished directory."""
