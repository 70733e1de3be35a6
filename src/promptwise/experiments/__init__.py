"""Grids of runs: what they are, running them, and the records that they leave."""
