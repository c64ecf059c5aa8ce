"""Callbacks of the monitor for Lightning and transformers.

Each module needs its library, and is imported by its own name. Accelerate needs nothing here: give
`initstats.Monitor` the prepared model and optimizer, and call `step()` where gradients are synced
(see docs/guides/monitoring.md).
"""
