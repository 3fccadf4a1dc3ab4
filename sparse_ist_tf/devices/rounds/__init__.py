"""The server: who is there, what is merged, and a run directory as train's."""
