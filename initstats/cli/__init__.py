"""The command line `initstats`."""

from initstats.cli.app import app, main

__all__ = ["app", "main"]
