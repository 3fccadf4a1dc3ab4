"""Hosts that are namespaces of this machine, and what makes them thin and weak."""
