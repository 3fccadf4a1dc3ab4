"""Drills of faults with real worker processes, and a soak."""
