"""Evidence of an audit and the rules that judge it."""
