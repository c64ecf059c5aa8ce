"""Gradients of one rank before the reduction over ranks, as each backward pass leaves them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from initstats import _ops
from initstats.diagnostics.unwatched import is_unwatched
from initstats.monitoring.window import Layout
from initstats.sharding import (
    GatheredParameter,
    gathered_parameters,
    is_dtensor,
    is_first_of,
    local_tensor,
)
from initstats.statistics.record_array import Groups

KIND = "local_gradients"
PARTIAL = "a Partial DTensor: its sum over the ranks that share the batch is still to come"
NOT_GATHERED = "FSDP2 had not gathered it, or tells nothing of it, when model(...) had ended"
COUNTED_ELSEWHERE = "the same on the ranks that share the batch: rank {rank} counts it"
_Rows = tuple[Tensor, Tensor, Tensor]


class LocalGradients:
    """Takes the records of gradients when they are accumulated.

    A post-accumulate hook of a parameter runs before the hook of DDP, which copies or reduces the
    gradient, and sees the sum of what this rank has accumulated. Under FSDP2 it is a hook of the
    gathered parameter, and runs before the gradient is scattered. The last backward pass of a step
    counts; those that reduce nothing are passed over.

    Of ranks that share a batch, those of tensor parallelism, each takes its shards, and the first
    of them what all have alike.

    Args:
        model: The model; DDP may be itself or around parts of it.
        peers: Ranks that share a batch with this one, itself included; empty for none.
        histograms: Take histograms too.
    """

    def __init__(self, model: nn.Module, peers: Sequence[int] = (), *, histograms: bool) -> None:
        self._model, self._peers = model, tuple(peers)
        self._wrappers = [m for m in model.modules() if isinstance(m, DistributedDataParallel)]
        self._groups = Groups.HISTOGRAM if histograms else Groups.MOMENTS
        self._handles: list[RemovableHandle] = []
        self._names: list[str] = []
        self._rows: dict[str, _Rows] = {}
        self._why: dict[str, str] = {}
        self._later: dict[str, GatheredParameter] = {}
        self._process = os.getpid()

    def begin(self, parameters: Mapping[str, Tensor]) -> None:
        """Hook parameters for a measured step."""
        self.end()
        gathered = gathered_parameters(self._model)
        for name, parameter in parameters.items():
            if not parameter.requires_grad:
                continue
            self._names.append(name)
            if (managed := gathered.get(id(parameter))) is None:
                self._hook(name, parameter, None)
            elif managed.whole is None:  # not before the first forward pass
                self._later[name] = managed
            else:
                self._hook(name, managed.whole, managed)
        if self._later:
            self._handles.append(self._model.register_forward_hook(_Forward(self)))

    def _hook(self, name: str, parameter: Tensor, managed: GatheredParameter | None) -> None:
        hook = _Hook(self, name, managed)
        self._handles.append(parameter.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]

    def gather(self) -> None:
        """Hook what FSDP2 has gathered for the first time."""
        for name, managed in list(self._later.items()):
            if managed.whole is not None:
                self._hook(name, managed.whole, self._later.pop(name))

    def end(self) -> None:
        """Remove the hooks, and forget what was taken."""
        for handle in self._handles:
            handle.remove()
        for kept in (self._handles, self._names, self._rows, self._later, self._why):
            kept.clear()

    def take(self) -> tuple[list[tuple[Layout, _Rows]], dict[str, str]]:
        """Remove the hooks.

        Returns:
            The records of this step, one batch per device, and why others have none, by name.
        """
        by_device: dict[torch.device, list[str]] = {}
        for name in filter(self._rows.__contains__, self._names):
            by_device.setdefault(self._rows[name][0].device, []).append(name)
        found = []
        for names in by_device.values():
            columns = zip(*(self._rows[name] for name in names), strict=True)
            moments, counts, places = map(torch.cat, columns)
            found.append((tuple(names), (moments, counts, places)))
        why = dict.fromkeys(self._later, NOT_GATHERED) | self._why
        self.end()
        return found, why

    @torch.no_grad()
    def add(self, name: str, parameter: Tensor, managed: GatheredParameter | None) -> None:
        """Take the record of one gradient, unless its backward pass reduces nothing."""
        waits = self._wrappers and not any(w.require_backward_grad_sync for w in self._wrappers)
        if managed is not None:
            waits = not managed.is_reduced_now
        if waits or is_unwatched() or os.getpid() != self._process:
            return
        gradient = parameter.grad if managed is None else managed.gradient
        if gradient is None:
            return
        if is_dtensor(gradient) and any(place.is_partial() for place in gradient.placements):
            self._why[name] = PARTIAL
        elif self._peers and not is_first_of(gradient, self._peers):
            self._why[name] = COUNTED_ELSEWHERE.format(rank=self._peers[0])
        else:
            local = local_tensor(gradient) if is_dtensor(gradient) else gradient
            dense = local if local.layout is torch.strided else local.to_dense()
            self._rows[name] = _ops.stats([dense.detach()], self._groups, 0)


class _Hook:
    """A post-accumulate hook; a copied or pickled model has one that does nothing."""

    def __init__(
        self, taken: LocalGradients | None, name: str, managed: GatheredParameter | None
    ) -> None:
        self._taken, self._name, self._managed = taken, name, managed

    def __call__(self, parameter: Tensor) -> None:
        """Take the gradient."""
        if self._taken is not None:
            self._taken.add(self._name, parameter, self._managed)

    def __reduce__(self) -> tuple[type[_Hook], tuple[None, str, None]]:
        return _Hook, (None, self._name, None)


class _Forward:
    """A hook at the end of a forward pass; a copied or pickled model has one that does nothing."""

    def __init__(self, taken: LocalGradients | None) -> None:
        self._taken = taken

    def __call__(self, *_hook: object) -> None:
        """Hook what was gathered."""
        if self._taken is not None and not torch.compiler.is_compiling():
            self._taken.gather()

    def __reduce__(self) -> tuple[Callable[..., _Forward], tuple[None]]:
        return _Forward, (None,)
