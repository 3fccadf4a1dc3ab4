"""Grids of trainings, and what they show together."""
