"""The command line `initstats`."""

from initstats.cli.application import app, main

__all__ = ["app", "main"]
