"""The recipes, one file per architecture."""
