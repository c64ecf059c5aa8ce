"""The demo: a small GPT on English text, and faults to catch."""
