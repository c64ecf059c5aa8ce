"""Models that start well, and faults injected into them: what the audit is judged by."""
