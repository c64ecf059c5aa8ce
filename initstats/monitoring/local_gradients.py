"""Gradients of one rank before the reduction over ranks, as each backward pass leaves them."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from initstats import _ops
from initstats.diagnostics.unwatched import is_unwatched
from initstats.monitoring.window import Layout
from initstats.sharding import is_dtensor
from initstats.statistics.record_array import Groups

KIND = "local_gradients"
REDUCED = "a DTensor: its gradient is reduced before anything can see it"
_Rows = tuple[Tensor, Tensor, Tensor]


class LocalGradients:
    """Takes the records of gradients when they are accumulated.

    A post-accumulate hook of a parameter runs before the hook of DDP, which copies or reduces the
    gradient, and sees the sum of what this rank has accumulated. The last backward pass of a step
    counts; those inside of `no_sync()` are passed over.

    Args:
        model: The model; DDP may be itself or around parts of it.
        histograms: Take histograms too.
    """

    def __init__(self, model: nn.Module, *, histograms: bool) -> None:
        self._wrappers = [m for m in model.modules() if isinstance(m, DistributedDataParallel)]
        self._groups = Groups.HISTOGRAM if histograms else Groups.MOMENTS
        self._handles: list[RemovableHandle] = []
        self._names: list[str] = []
        self._rows: dict[str, _Rows] = {}
        self._process = os.getpid()

    def begin(self, parameters: Mapping[str, Tensor]) -> None:
        """Hook parameters for a measured step."""
        self.end()
        for name, parameter in parameters.items():
            if parameter.requires_grad and not is_dtensor(parameter):
                self._names.append(name)
                hook = _Hook(self, name)
                self._handles.append(parameter.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]

    def end(self) -> None:
        """Remove the hooks, and forget what was taken."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._names.clear()
        self._rows.clear()

    def take(self) -> list[tuple[Layout, _Rows]]:
        """Return the records of this step, one batch per device, and remove the hooks."""
        by_device: dict[torch.device, list[str]] = {}
        for name in filter(self._rows.__contains__, self._names):
            by_device.setdefault(self._rows[name][0].device, []).append(name)
        found = []
        for names in by_device.values():
            columns = zip(*(self._rows[name] for name in names), strict=True)
            moments, counts, places = map(torch.cat, columns)
            found.append((tuple(names), (moments, counts, places)))
        self.end()
        return found

    @torch.no_grad()
    def add(self, name: str, gradient: Tensor) -> None:
        """Take the record of one gradient, unless its backward pass reduces nothing."""
        waits = self._wrappers and not any(w.require_backward_grad_sync for w in self._wrappers)
        if waits or is_unwatched() or os.getpid() != self._process:
            return
        dense = gradient if gradient.layout is torch.strided else gradient.to_dense()
        self._rows[name] = _ops.stats([dense.detach()], self._groups, 0)


class _Hook:
    """A post-accumulate hook; a copied or pickled model has one that does nothing."""

    def __init__(self, taken: LocalGradients | None, name: str) -> None:
        self._taken, self._name = taken, name

    def __call__(self, parameter: Tensor) -> None:
        """Take the gradient."""
        if self._taken is not None and parameter.grad is not None:
            self._taken.add(self._name, parameter.grad)

    def __reduce__(self) -> tuple[type[_Hook], tuple[None, str]]:
        return _Hook, (None, self._name)
