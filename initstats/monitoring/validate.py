"""Check the arguments of a monitor before anything is hooked."""

from __future__ import annotations

from torch import nn

from initstats.monitoring.sink_worker import Sink
from initstats.text import nearest

REDUCTIONS = ("merge", "none")
KINDS = (
    *("weights", "gradients", "local_gradients", "activations", "inputs", "updates"),
    *("moments", "momentum_cosine"),
)
_OF_OPTIMIZERS = {"moments": "its moments", "momentum_cosine": "its momentum"}


def check_arguments(
    model: object,
    optimizers: int,
    every: int,
    window: int,
    watch: tuple[str, ...],
    sinks: tuple[object, ...],
    reduce: str = "merge",
) -> None:
    """Refuse wrong arguments of `initstats.Monitor`.

    Raises:
        TypeError: If the model or a sink is of the wrong kind.
        ValueError: If a number is too small, or `watch` or `reduce` is unknown.
    """
    if reduce not in REDUCTIONS:
        msg = f"initstats.Monitor: expected reduce to be one of {REDUCTIONS}, got reduce={reduce!r}"
        raise ValueError(msg)
    if not isinstance(model, nn.Module):
        msg = f"initstats.Monitor: expected a module, got model={type(model).__name__}"
        raise TypeError(msg)
    for name, value in (("every", every), ("window", window)):
        if value < 1:
            msg = f"initstats.Monitor: expected {name} >= 1, got {name}={value}"
            raise ValueError(msg)
    unknown = [kind for kind in watch if kind not in KINDS]
    if unknown or not watch:
        msg = f"initstats.Monitor: expected watch to name some of {KINDS}, got watch={watch}"
        msg += nearest(unknown[0], KINDS) if unknown else ""
        raise ValueError(msg)
    for kind, what in _OF_OPTIMIZERS.items():
        if kind in watch and optimizers == 0:
            msg = f"initstats.Monitor: expected an optimizer to watch {what}, got optimizer=None"
            raise ValueError(msg)
    for sink in sinks:
        if not isinstance(sink, Sink):
            msg = f"initstats.Monitor: expected sinks with a method write, got {sink!r}"
            raise TypeError(msg)
