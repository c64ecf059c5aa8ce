"""Distributions of rules, with their moments."""
