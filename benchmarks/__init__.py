"""Measurements against torch and against the memory of the machine. `make bench` runs them all."""
