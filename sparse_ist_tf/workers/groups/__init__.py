"""Groups of workers: who is in one, its processes, and one group after another."""
