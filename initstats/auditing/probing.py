"""Change a part of the inputs, and see which outputs move: other examples, earlier positions."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from initstats.auditing.batch import LossFunction, forward, inputs_of
from initstats.auditing.loss_mode import LOSS_NAMES
from initstats.auditing.snapshot import RandomStates
from initstats.diagnostics.dataflow import BatchReport, DependenceReport
from initstats.diagnostics.layer_records import floating_tensors
from initstats.diagnostics.nested import map_nested, nested_tensors

# Changes that rounding explains: of float32 where the experts of a mixture get other numbers of
# rows, and of bfloat16 in the same case, eight times its spacing of 2^-7.
_ROUNDING = 1e-4
_LOW_ROUNDING = 0.0625
_SIZES = (4, 6, 8, 2)  # examples that are run; the first that is no other size of the inputs
_FEWEST_MATCHES = 8
_MATCHING = 0.95  # share of targets that are the input some positions ahead
_FARTHEST = 2  # positions
_ANSWER = re.compile(r"label|target")
_MATRIX = 2

Change = Callable[[Any], Any]


def batch_report(batch: Any, loss_fn: LossFunction | None) -> BatchReport:
    """Compare the examples of a batch. Waits for the device.

    Args:
        batch: As for `audit`.
        loss_fn: As for `audit`.

    Returns:
        Their number, and whether all inputs are the same.
    """
    inputs = _without_targets(batch, loss_fn)
    tensors = [x for x in nested_tensors(inputs) if x.dim() and x.numel()]
    sizes = {len(x) for x in tensors}
    if len(sizes) != 1 or any(x.layout is not torch.strided for x in tensors):
        return BatchReport()
    examples = sizes.pop()
    alike = examples > 1 and all(bool((x == x[:1]).all()) for x in tensors)
    return BatchReport(examples, alike, *_targets(batch, loss_fn))


def _targets(batch: Any, loss_fn: LossFunction | None) -> tuple[int, float | None]:
    """Return the number of targets that a loss function gets, and their one value."""
    is_pair = isinstance(batch, (tuple, list)) and loss_fn is not None
    target = batch[-1] if is_pair else None
    if not isinstance(target, Tensor) or not target.numel() or target.layout is not torch.strided:
        return 0, None
    low, high = (float(x) for x in torch.aminmax(target.detach().float()))
    return target.numel(), low if low == high else None


def dependence(model: nn.Module, batch: Any, loss_fn: LossFunction | None) -> DependenceReport:
    """Measure which outputs depend on other examples, and on later positions.

    Runs the model in eval mode without gradients, up to nine times on a few examples.

    Args:
        model: The model; its modes are left in eval.
        batch: As for `audit`.
        loss_fn: As for `audit`.

    Returns:
        The changes, None where there is nothing to compare.
    """
    model.eval()
    probe = _Probe(model, loss_fn)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a model says in eval mode was not asked for
        rows = _few_examples(batch)
        few = batch if rows is None else _picked(batch, torch.arange(rows))
        base = probe.run(few)
        found: dict[str, Any] = {}
        if rows is not None and not _mixes_by_design(model, batch):
            found |= probe.examples(few, base, rows)
        return DependenceReport(**found, **probe.positions(few, base))


@dataclass(frozen=True)
class _Run:
    """What one pass returned: outputs, and scores with their targets."""

    outputs: list[Tensor]
    losses: list[tuple[Tensor, Tensor]]


class _Scores(TorchFunctionMode):
    """Context manager that keeps scores and targets of the loss functions."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the function, and keep what enters a loss."""
        result = func(*args, **(kwargs or {}))
        if func in LOSS_NAMES:
            given = inspect.signature(func).bind(*args, **(kwargs or {})).arguments
            self.kept.append((given["input"].detach(), given["target"].detach()))
        return result


class _Probe:
    """Passes of one model, all with the same random numbers."""

    def __init__(self, model: nn.Module, loss_fn: LossFunction | None) -> None:
        self._model = model
        self._loss_fn = loss_fn
        self._devices = [p.device for p in model.parameters()]

    def run(self, batch: Any) -> _Run:
        """Run the model and its loss on a copy of a batch."""
        with RandomStates(self._devices), _Scores() as scores:
            output, _ = forward(self._model, _copied(batch), self._loss_fn)
        outputs = [x.detach().clone() for x in floating_tensors(output)]
        return _Run(outputs, scores.kept or self._by_hand(outputs, batch))

    def _by_hand(self, outputs: list[Tensor], batch: Any) -> list[tuple[Tensor, Tensor]]:
        """Take outputs for scores of a loss that calls no loss function of torch."""
        is_pair = isinstance(batch, (tuple, list)) and self._loss_fn is not None
        target = batch[-1] if is_pair else None
        return [(x, target) for x in outputs] if isinstance(target, Tensor) else []

    def examples(self, batch: Any, base: _Run, rows: int) -> dict[str, Any]:
        """Replace half of the examples by the other half."""
        half = rows // 2
        first, second = torch.arange(half), torch.arange(half, rows)
        share, worst = None, (first, first)
        # Both halves: what runs over the examples in order shows only in those behind.
        for kept, picked in ((first, first.repeat(2)), (second, second.repeat(2))):
            moved = self._moved(batch, base, partial(_picked, index=picked), (0, rows, kept))
            if moved is not None and (share is None or moved > share):
                share, worst = moved, (kept, picked)
        if share is None or share <= _limit(base.outputs) or not self._repeats(batch, base):
            return {"examples": None if share is None else min(share, _limit(base.outputs))}
        kept, picked = worst
        place = self._first_place(batch, _picked(batch, picked), kept, rows)
        return {
            "examples": share,
            "examples_at": place,
            "second": self._along_second(batch, base),
        }

    def _moved(
        self, batch: Any, base: _Run, change: Change, kept: tuple[int, int, Tensor]
    ) -> float | None:
        """Return by how much outputs move, among those whose dimension has the size."""
        dim, size, index = kept
        changed = self.run(change(batch))
        shares = [
            _difference(_kept(a, size, index), _kept(b, size, index))
            for a, b in zip(base.outputs, changed.outputs, strict=False)
            if a.dim() > dim and a.shape == b.shape and a.shape[dim] == size
        ]
        return max((share for share in shares if share is not None), default=None)

    def _repeats(self, batch: Any, base: _Run) -> bool:
        """Tell whether the same inputs give the same outputs."""
        again = self.run(batch)
        pairs = zip(base.outputs, again.outputs, strict=False)
        shares = [_difference(a, b) for a, b in pairs if a.shape == b.shape]
        return all(share is None or share <= _limit(base.outputs) / 10 for share in shares)

    def _along_second(self, batch: Any, base: _Run) -> float | None:
        """Replace half along the second dimension, where it is one of all inputs."""
        shaped = [x for x in nested_tensors(batch) if x.dim() >= _MATRIX]
        sizes = {x.shape[1] for x in shaped}
        size = sizes.pop() if len(sizes) == 1 else 0
        if size < 2:  # noqa: PLR2004  # nothing to replace
            return None
        half = size // 2
        shares = []
        for kept in (torch.arange(half), torch.arange(half, size)):
            picked = torch.cat([kept] * 3)[:size] if kept[0] == 0 else kept.repeat(2)[-size:]
            change = partial(_picked, index=picked, dim=1)
            shares.append(self._moved(batch, base, change, (1, size, kept)))
        known = [share for share in shares if share is not None]
        return max(known, default=None)

    def _first_place(self, batch: Any, changed: Any, kept: Tensor, rows: int) -> str:
        """Return the first module whose output for the kept examples moves."""
        before = self._traced(batch, kept, rows)
        after = self._traced(changed, kept, rows)
        for (name, a), (_, b) in zip(before, after, strict=False):
            share = _difference(a, b) if a.shape == b.shape else None
            if share is not None and share > _limit([a]):
                return name
        return ""

    def _traced(self, batch: Any, kept: Tensor, rows: int) -> list[tuple[str, Tensor]]:
        """Run the model, and return the outputs of its modules for the kept examples."""
        found: list[tuple[str, Tensor]] = []
        handles = []
        for name, module in self._model.named_modules():

            def keep(_module: nn.Module, _args: Any, output: Any, name: str = name) -> None:
                x = next(floating_tensors(output), None)
                if x is not None and x.dim() and len(x) == rows:
                    found.append((name, x.detach()[kept.to(x.device)].clone()))

            handles.append(module.register_forward_hook(keep))
        try:
            self.run(batch)
        finally:
            for handle in handles:
                handle.remove()
        return found

    def positions(self, batch: Any, base: _Run) -> dict[str, Any]:
        """Change the later positions of inputs that are the targets, up to a shift."""
        for name, x in _named_tensors(_without_targets(batch, self._loss_fn)):
            for i, (scores, target) in enumerate(base.losses):
                steps, ahead = _shifted(x, target)
                if not steps or _by_position(scores, len(x), steps) is None:
                    continue
                counted = _counted(target, len(x), steps)
                middle = _middle(counted)
                before, behind = slice(0, middle), slice(middle, None)
                later = self._shift(batch, base, (x, behind), (i, steps, before))
                if later is None:
                    return {}
                if ahead != 1 and not self._shift(batch, base, (x, behind), (i, steps, behind)):
                    continue  # no input: the targets themselves, under another name
                found = {"later_at": name, "ahead": ahead}
                if later <= _limit([scores]) or not self._repeats(batch, base):
                    return {"later": min(later, _limit([scores])), **found}
                earlier = self._shift(batch, base, (x, before), (i, steps, behind))
                return {"later": later, "earlier": earlier, **found}
        return {}

    def _shift(
        self, batch: Any, base: _Run, given: tuple[Tensor, slice], seen: tuple[int, int, slice]
    ) -> float | None:
        """Return by how much scores move when an input changes.

        Args:
            batch: The batch.
            base: The pass with this batch.
            given: The input, and the positions that change.
            seen: The loss, its number of positions, and those that are compared.
        """
        (x, part), (loss, steps, compared) = given, seen
        changed = _changed(x, part)
        if changed is None:
            return None

        def replaced(value: Any) -> Any:
            same = isinstance(value, Tensor) and value.shape == x.shape and value.dtype == x.dtype
            return changed if same and torch.equal(value, x) else value

        run = self.run(map_nested(replaced, batch))
        if len(run.losses) != len(base.losses):
            return None
        a, b = (_by_position(r.losses[loss][0], len(x), steps) for r in (base, run))
        if a is None or b is None:
            return None
        counted = _counted(base.losses[loss][1], len(x), steps)[:, compared]
        return _difference(a[:, compared][counted], b[:, compared][counted])


def _without_targets(batch: Any, loss_fn: LossFunction | None) -> Any:
    """Return what a model gets, without the targets of the loss that it computes itself."""
    inputs = inputs_of(batch, loss_fn)
    if isinstance(inputs, Mapping):
        return {name: x for name, x in inputs.items() if not _ANSWER.search(str(name))}
    own_loss = loss_fn is None and isinstance(inputs, (tuple, list)) and len(inputs) > 1
    return inputs[:-1] if own_loss else inputs


def _few_examples(batch: Any) -> int | None:
    """Return how many examples to run, None when the batch has no common first dimension."""
    tensors = [x for x in nested_tensors(batch) if x.dim()]
    sizes = {len(x) for x in tensors}
    if len(sizes) != 1 or any(x.layout is not torch.strided for x in tensors):
        return None
    others = {size for x in tensors for size in x.shape[1:]}
    fitting = [size for size in _SIZES if size <= min(sizes)]
    return next((s for s in fitting if s not in others), fitting[0] if fitting else None)


def _mixes_by_design(model: nn.Module, batch: Any) -> bool:
    """Tell a graph, whose nodes are no examples, and batch norms without running statistics."""
    square = [x for x in nested_tensors(batch) if x.dim() == _MATRIX and x.shape[0] == x.shape[1]]
    graph = any(x.is_floating_point() or x.dtype is torch.bool for x in square)
    norms = (m for m in model.modules() if isinstance(m, _BatchNorm))
    return graph or any(norm.running_mean is None for norm in norms)


def _picked(batch: Any, index: Tensor, dim: int = 0) -> Any:
    """Return the same structure with some rows of each tensor."""

    def part(x: Any) -> Any:
        long_enough = isinstance(x, Tensor) and x.dim() > dim
        return x.index_select(dim, index.to(x.device)) if long_enough else x

    return map_nested(part, batch)


def _copied(batch: Any) -> Any:
    """Return a copy, because a model may change its input in place."""
    return map_nested(lambda x: x.clone() if isinstance(x, Tensor) else x, batch)


def _named_tensors(batch: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors [examples, positions, ...] of a batch, with names where it has some."""
    if isinstance(batch, Mapping):
        named = [(str(key), x) for key, value in batch.items() for x in nested_tensors(value)]
    else:
        named = [(f"input {i}", x) for i, x in enumerate(nested_tensors(batch))]
    yield from ((name, x) for name, x in named if x.dim() >= _MATRIX and x.shape[1] > 1)


def _shifted(x: Tensor, target: Tensor) -> tuple[int, int]:
    """Tell whether targets are an input some positions ahead.

    Args:
        x: Input, [examples, positions, ...].
        target: Targets of a loss, of any shape; negative ones of classes do not count.

    Returns:
        The number of positions of the targets, 0 when they are something else, and how far they are
        ahead: 0, 1 or 2.
    """
    length, size = x.shape[1], x.numel() // x.shape[1]
    steps = target.numel() // size if size else 0
    if not 0 <= length - steps <= _FARTHEST or target.numel() != size * steps:
        return 0, 0
    if target.dtype != x.dtype or steps <= _FARTHEST:
        return 0, 0
    given = target.reshape(len(x), steps, *x.shape[2:])
    # Inputs that repeat themselves are ahead by any number: then by the usual one.
    for ahead in (1, 0, 2):
        count = min(steps, length - ahead)
        part, wanted = given[:, :count], x[:, ahead : ahead + count]
        counted = torch.ones_like(part, dtype=torch.bool) if x.is_floating_point() else part >= 0
        total = int(counted.sum())
        matches = int(((part == wanted) & counted).sum())
        if total >= _FEWEST_MATCHES and matches > _MATCHING * total:
            return steps, ahead
    return 0, 0


def _counted(target: Tensor, examples: int, steps: int) -> Tensor:
    """Tell which targets count, [examples, steps]: no negative classes."""
    given = target.reshape(examples, steps, -1)
    return (
        torch.ones_like(given[..., 0], dtype=torch.bool)
        if given.is_floating_point()
        else (given >= 0).all(-1)
    )


def _middle(counted: Tensor) -> int:
    """Return the position that has half of those before it whose targets count."""
    places = counted.any(0).nonzero().flatten()
    return int(places[len(places) // 2]) if len(places) else counted.shape[1] // 2


def _by_position(scores: Tensor, examples: int, steps: int) -> Tensor | None:
    """Return scores as [examples, steps, ...], None when they have no such shape."""
    if scores.shape[:2] == (examples, steps):
        return scores
    if scores.shape[0] == examples * steps:
        return scores.reshape(examples, steps, *scores.shape[1:])
    if scores.dim() > _MATRIX and scores.shape[0] == examples and scores.shape[2] == steps:
        return scores.movedim(1, -1)  # classes come second
    return None


def _changed(x: Tensor, part: slice) -> Tensor | None:
    """Return other values at some positions, all of which occur in x; None when there is one."""
    changed = x.clone()
    if x.is_floating_point():
        changed[:, part] = x[:, part].flip(0) if len(x) > 1 else -x[:, part]
        return None if torch.equal(changed, x) else changed
    values = torch.unique(x)
    if len(values) < 2:  # noqa: PLR2004  # no other value
        return None
    changed[:, part] = values.roll(1)[torch.searchsorted(values, x[:, part].contiguous())]
    return changed


def _kept(x: Tensor, size: int, index: Tensor) -> Tensor:
    """Pick indices in every dimension of a size: scores of pairs have the examples twice."""
    for dim in range(x.dim()):
        if x.shape[dim] == size:
            x = x.index_select(dim, index.to(x.device))
    return x


def _difference(a: Tensor, b: Tensor) -> float | None:
    """Return the largest difference of the finite values over the largest value."""
    finite = torch.isfinite(a) & torch.isfinite(b)
    if not finite.any():
        return None
    a, b = a[finite].double(), b[finite].double()
    size = float(a.abs().max())
    return float((a - b).abs().max()) / size if size > 0 else None


def _limit(tensors: list[Tensor]) -> float:
    """Return the share that rounding explains."""
    low = any(x.dtype in {torch.float16, torch.bfloat16} for x in tensors)
    return _LOW_ROUNDING if low else _ROUNDING
