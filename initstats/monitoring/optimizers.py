"""Hooks on optimizers: which one owns each parameter, and which have stepped."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

Hook = Callable[[Optimizer, Any, Any], Any]
CAPTURED = "optimizer.step() was captured in a CUDA graph, whose replays run no hooks"


def is_captured() -> bool:
    """Tell whether a CUDA graph of the current stream is being captured."""
    begun: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return begun and torch.cuda.is_current_stream_capturing()


class Optimizers:
    """None, one or several optimizers.

    Args:
        given: An optimizer, several, or None. What Accelerate wraps is unwrapped.

    Raises:
        TypeError: If something else is given.
        ValueError: If one is given twice.

    Attributes:
        stepped: Those that have stepped since `begin`.
    """

    def __init__(self, given: Optimizer | Iterable[Optimizer] | None) -> None:
        if given is None:
            several: list[Any] = []
        else:
            several = list(given) if isinstance(given, (list, tuple)) else [given]
        several = [getattr(one, "optimizer", one) for one in several]
        for one in several:
            if not isinstance(one, Optimizer):
                msg = (
                    "initstats.Monitor: expected a torch optimizer or several, got"
                    f" optimizer={type(one).__name__}"
                )
                raise TypeError(msg)
        self._all: list[Optimizer] = several
        if len({id(one) for one in self._all}) != len(self._all):
            msg = "initstats.Monitor: expected different optimizers, got one of them twice"
            raise ValueError(msg)
        self.stepped: list[Optimizer] = []
        self._handles: list[RemovableHandle] = []

    def attach(self, before: Hook, after: Hook) -> None:
        """Call the methods `before` and `after` around every step of each optimizer.

        They are held weakly: what they belong to ends when its user lets go of it.
        """
        for one in self._all:
            self._handles += [
                one.register_step_pre_hook(_weakly(before)),
                one.register_step_post_hook(_weakly(after)),
            ]

    def detach(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def begin(self) -> None:
        """Begin a step of training."""
        self.stepped = []

    def has_stepped(self, optimizer: Optimizer) -> bool:
        """Note that one has stepped; tell whether all have."""
        if not any(one is optimizer for one in self.stepped):
            self.stepped.append(optimizer)
        return len(self.stepped) == len(self._all)

    def rates(self, optimizer: Optimizer) -> dict[str, float | Tensor]:
        """Return the learning rates of one optimizer's groups, by number; tensors copied."""
        begin = ""
        if len(self._all) > 1:
            begin = f"{next(i for i, one in enumerate(self._all) if one is optimizer)}."
        rates = {f"{begin}{i}": group.get("lr") for i, group in enumerate(optimizer.param_groups)}
        return {
            name: rate.detach().clone() if isinstance(rate, Tensor) else float(rate)
            for name, rate in rates.items()
            if rate is not None
        }

    @property
    def rate_names(self) -> tuple[str, ...]:
        """Names of the learning rates of all groups, as they are now."""
        return tuple(name for one in self._all for name in self.rates(one))

    def owned(self, optimizers: Iterable[Optimizer]) -> set[int] | None:
        """Return the ids of the parameters that some optimizers have now; None for all of them."""
        chosen = list(optimizers)
        if len(chosen) == len(self._all):
            return None
        return {id(p) for one in chosen for group in one.param_groups for p in group["params"]}

    def __iter__(self) -> Iterator[Optimizer]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


def _weakly(method: Hook) -> Hook:
    """Return a function that calls a method of an object that it does not keep alive."""
    reference = weakref.WeakMethod(method)

    def call(optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        found = reference()
        return None if found is None else found(optimizer, args, kwargs)

    return call
