"""What a rule promises: distributions with their moments."""
