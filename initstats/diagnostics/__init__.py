"""What was measured of a model, and the rules that judge it."""
