"""Library of recipes, one file per architecture."""
