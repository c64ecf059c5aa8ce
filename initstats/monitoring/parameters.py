"""Measure parameters in one launch per kind: weights, gradients, updates, moments."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from initstats.monitoring.window import PRODUCTS, Layout
from initstats.sharding import is_dtensor, local_tensor, sharded_parameters

ChosenParameter = Callable[[str, nn.Parameter], bool]
NOT_STEPPED = "the optimizer did not step"
NO_GRADIENT = "no gradient"
PARTIAL = "a Partial DTensor: its sum over ranks is still to come"
STALE = "left by an earlier step: nothing was written to it in this one"
NO_STATE = "not in the state of the optimizer"
# What the optimizer must keep for a kind of moments.
MOMENTS = {
    "exp_avg": "exp_avg",
    "exp_avg_sq": "exp_avg_sq",
    "square_gradient_ratio": "exp_avg_sq",
}
NO_MOMENTUM = "no momentum in the state of the optimizer"
SHARDED = "a shard: the cosine of the whole is in rows of all ranks"
PLACED_APART = "momentum and gradient are sharded in different ways"
# Where optimizers keep momentum: those like Adam, and SGD, Muon and RMSprop.
_MOMENTA = ("exp_avg", "momentum_buffer")
STEP_ON_DEVICE = "the optimizer keeps its step count on the device"
_KEPT_BELOW = 10


@dataclass(eq=False)
class Listed:
    """Tensors by name, in the order of the model.

    Attributes:
        names: Their names.
        tensors: The tensors.
        minus: Empty, or what is to be subtracted from each.
        over: Empty, or what the square of each is to be divided by.
        factors: With over, what each of these ratios is to be multiplied by.
        over_kind: With over, the kind that over is to be measured as in the same pass; or empty.
    """

    names: Layout
    tensors: list[Tensor]
    minus: list[Tensor] = field(default_factory=list)
    over: list[Tensor] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)
    over_kind: str = ""


class Parameters:
    """The watched parameters of a model.

    Args:
        model: The model.
        chosen: Tells by name and parameter what to watch; None for all.
        every: Steps between two measurements: the copy for updates is kept only when it is small.
        sharded: Take DTensors, whose local tensors are measured.

    Attributes:
        partial: Names of gradients that the ranks have not summed.
        kept: Names of the gradients that the row of this step has already.
        unfit: Why a parameter has no statistics, by name.
    """

    def __init__(
        self,
        model: nn.Module,
        chosen: ChosenParameter | None,
        every: int,
        *,
        sharded: bool = False,
    ) -> None:
        self._model = model
        self._sharded = sharded
        self.partial: dict[str, str] = {}
        self._chosen = chosen
        self._keep = every < _KEPT_BELOW
        self._layouts: dict[Layout, Layout] = {}
        self._all: list[tuple[str, nn.Parameter]] = []
        self._held: list[tuple[int, torch.dtype, type]] = []
        self._seen: list[tuple[int, torch.dtype, type]] = []
        self._before: list[Tensor] = []
        self._copied: Listed | None = None
        self._copied_ids: list[int] = []
        self.kept: set[str] = set()
        self._old: dict[str, tuple[weakref.ref[Tensor], int]] = {}
        self.weights = Listed((), [])
        self.unfit: dict[str, str] = {}
        self.trained: Layout = ()
        self.refresh()

    def refresh(self, modules: Iterable[nn.Module] | None = None) -> None:
        """Begin a step: follow parameters that were added, removed, replaced, frozen or thawed.

        Args:
            modules: All modules of the model, where they are known.
        """
        self.kept.clear()
        self.partial.clear()
        self.follow(modules)

    def follow(self, modules: Iterable[nn.Module] | None = None) -> None:
        """Look whether parameters were added, removed, replaced, frozen or thawed.

        Args:
            modules: As in `refresh`.
        """
        held = [
            (id(p), p.dtype, type(p))
            for module in (self._model.modules() if modules is None else modules)
            for p in module._parameters.values()  # noqa: SLF001  # named_parameters takes ten times
            if p is not None
        ]
        if held != self._held:
            self._look()
            # FSDP2 may replace what stands behind the parameters that it shows.
            self._held = [] if any(is_dtensor(p) for _, p in self._all) else held
        self.trained = self.trained_of(None)

    def _look(self) -> None:
        """Look up the parameters by name."""
        found: list[Any] = list(sharded_parameters(self._model).items())
        seen = [(id(p), p.dtype, type(p)) for _, p in found]
        if seen != self._seen:
            first, self._seen, self._all = not self._seen, seen, found
            named = [(name.replace("_orig_mod.", ""), p) for name, p in found]
            if self._chosen is not None:
                named = [(name, p) for name, p in named if self._chosen(name, p)]
            if first:
                check(named, sharded=self._sharded)
            why = {name: no_statistics(p, sharded=self._sharded) for name, p in named}
            self.unfit = {name: reason for name, reason in why.items() if reason is not None}
            named = [(name, p) for name, p in named if name not in self.unfit]
            self.weights = Listed(tuple(n for n, _ in named), [p for _, p in named])
            self.forget()

    @property
    def watched(self) -> dict[str, Tensor]:
        """The watched parameters by name, of DTensors the whole."""
        return dict(zip(*self._pairs(), strict=True))

    @property
    def weights_here(self) -> Listed:
        """The weights, of DTensors what this rank holds: taken afresh, as FSDP2 replaces them."""
        if not self._sharded:
            return self.weights
        tensors = [local_tensor(p) if is_dtensor(p) else p for p in self.weights.tensors]
        return Listed(self.weights.names, tensors)

    def gradients(
        self, owned: set[int] | None = None, only: Collection[str] | None = None
    ) -> Listed:
        """Return the gradients that are not among those kept; sparse ones made dense.

        Args:
            owned: Ids of the parameters that count, None for all.
            only: Names of those that are meant, kept or not; None for all.
        """
        names, tensors = [], []
        for name, parameter in zip(*self._pairs(), strict=True):
            gradient, is_owned = parameter.grad, owned is None or id(parameter) in owned
            is_meant = name not in self.kept if only is None else name in only
            if gradient is None or not is_meant or not is_owned:
                continue
            if is_dtensor(gradient):
                if any(placement.is_partial() for placement in gradient.placements):
                    self.partial[name] = PARTIAL
                    continue
                gradient = local_tensor(gradient)
            names.append(name)
            dense = gradient.layout is torch.strided
            tensors.append(gradient if dense else gradient.to_dense())
        return Listed(self._layout(names), tensors)

    def names_of_gradients(self) -> dict[int, str]:
        """Return the names of the parameters that have gradients, by the ids of these."""
        return {id(p.grad): n for n, p in zip(*self._pairs(), strict=True) if p.grad is not None}

    def note_gradients(self) -> None:
        """Note which gradients are there when a step begins."""
        self._old = {
            name: (weakref.ref(p.grad), p.grad._version)  # noqa: SLF001  # torch's own name
            for name, p in zip(*self._pairs(), strict=True)
            if p.grad is not None
        }

    def pass_over_old_gradients(self, *, on_cuda: bool) -> dict[str, str]:
        """Leave out gradients that nothing was written to since the step began.

        Args:
            on_cuda: Those on CUDA devices as well.

        Returns:
            Why they are not there, by name.
        """
        gradients = {name: p.grad for name, p in zip(*self._pairs(), strict=True)}
        stale = {
            name: STALE
            for name, (old, version) in self._old.items()
            if name not in self.kept
            and (now := gradients.get(name)) is not None
            and (on_cuda or not now.is_cuda)
            and old() is now
            and now._version == version  # noqa: SLF001
        }
        self.kept.update(stale)
        return stale

    def remember(self) -> None:
        """Copy the trained weights, to see later how they changed."""
        tensors = self._expect_copies()
        if tensors:
            torch._foreach_copy_(self._before, tensors)  # one launch

    def copies_of(self, weights: Listed) -> list[Tensor]:
        """Return where to copy the weights while they are measured, instead of `remember`.

        Args:
            weights: The weights as `weights_here` lists them.

        Returns:
            A tensor for each; none where `remember` has to do it: on CUDA devices, where one launch
            copies them all, and where some weights are frozen or have other strides than a copy.
        """
        if self.trained != weights.names or not all(x.is_cpu for x in weights.tensors):
            return []
        tensors = self._expect_copies()
        alike = all(b.stride() == t.stride() for b, t in zip(self._before, tensors, strict=True))
        if not alike:
            self._copied = None
        return list(self._before) if alike else []

    def _expect_copies(self) -> list[Tensor]:
        """Note what the copies are of, and make room for them; return what is to be copied."""
        pairs = [(n, p) for n, p in zip(*self._pairs(), strict=True) if p.requires_grad]
        names = self._layout([n for n, _ in pairs])
        tensors = [local_tensor(p) if is_dtensor(p) else p.detach() for _, p in pairs]
        fits = len(self._before) == len(tensors) and all(
            b.shape == t.shape and b.device == t.device and b.dtype == t.dtype
            for b, t in zip(self._before, tensors, strict=True)
        )
        if not fits:
            self._before = [torch.empty_like(t) for t in tensors]
        self._copied = Listed(names, tensors)
        self._copied_ids = [id(p) for _, p in pairs]
        return tensors

    def updates(self, owned: set[int] | None = None) -> Listed | None:
        """Return the weights, and their copy to be subtracted; None where there is none.

        Args:
            owned: Ids of the parameters that count, None for all.
        """
        if self._copied is None:
            return None
        names, after, before = self._copied.names, self._copied.tensors, self._before
        self._copied = None
        if owned is not None:
            rows = [i for i, key in enumerate(self._copied_ids) if key in owned]
            names = self._layout([names[i] for i in rows])
            after, before = [after[i] for i in rows], [before[i] for i in rows]
        return Listed(names, after, before)

    def forget(self) -> None:
        """Give the copy back unless the next measurement comes soon."""
        self._copied = None
        if not self._keep:
            self._before = []

    def moments(self, optimizer: Optimizer) -> dict[str, Listed]:
        """Return Adam's moments, and the ratio of the squared gradient to the second one.

        Args:
            optimizer: Any optimizer; only state with `exp_avg_sq` counts.

        Returns:
            Lists by kind: "exp_avg", "exp_avg_sq" as the optimizer keeps them, and
            "square_gradient_ratio", g^2 / v with the bias of v corrected, which is never stored.
            Where all second moments make ratios as they are, these are measured with them.
        """
        beta = {
            id(p): float(group["betas"][1])
            for group in optimizer.param_groups
            for p in group["params"]
            if "betas" in group
        }
        first, second, ratios = Listed((), []), Listed((), []), Listed((), [])
        names: dict[str, list[str]] = {"first": [], "second": [], "ratio": []}
        as_they_are = True
        for name, parameter in zip(*self._pairs(), strict=True):
            state: dict[str, Any] = _local_state(optimizer.state.get(parameter, {}))
            if "exp_avg" in state:
                names["first"].append(name)
                first.tensors.append(state["exp_avg"])
            if "exp_avg_sq" not in state:
                continue
            names["second"].append(name)
            second.tensors.append(state["exp_avg_sq"])
            steps = state.get("step")
            gradient = parameter.grad
            if gradient is not None and is_dtensor(gradient):
                gradient = local_tensor(gradient)
            known = not (isinstance(steps, Tensor) and steps.is_cuda) and id(parameter) in beta
            if known and steps is not None and gradient is not None:
                names["ratio"].append(name)
                kept = state["exp_avg_sq"].detach()
                over, square = _alike(kept, gradient.detach())
                as_they_are &= over.dtype is kept.dtype and over.shape == kept.shape
                ratios.tensors.append(square)
                ratios.over.append(over)
                ratios.factors.append(1.0 - beta[id(parameter)] ** float(steps))
        first.names, second.names = self._layout(names["first"]), self._layout(names["second"])
        ratios.names = self._layout(names["ratio"])
        if as_they_are and ratios.names and ratios.names == second.names:
            ratios.over_kind = "exp_avg_sq"
            return {"exp_avg": first, "square_gradient_ratio": ratios}
        return {"exp_avg": first, "exp_avg_sq": second, "square_gradient_ratio": ratios}

    def momentum_cosines(
        self, optimizer: Optimizer
    ) -> tuple[Listed, dict[str, Listed], dict[str, str]]:
        """Return the cosine of momentum, as an optimizer keeps it now, and gradient.

        Args:
            optimizer: Any optimizer that has just stepped; state called `exp_avg` (Adam and its
                relatives) or `momentum_buffer` (SGD, Muon, RMSprop) counts.

        Returns:
            A number per parameter, 0 where gradient or momentum is 0, on its device; of shards what
            sums over the ranks to the products of `PRODUCTS`, by their names; and why others have
            none.
        """
        owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
        names, cosines, why = [], [], {}
        sharded: list[str] = []
        products: list[list[Tensor]] = [[] for _ in PRODUCTS]
        for name, parameter in zip(*self._pairs(), strict=True):
            if not parameter.requires_grad or id(parameter) not in owned:
                continue
            state, gradient = optimizer.state.get(parameter, {}), parameter.grad
            momentum = next((state[key] for key in _MOMENTA if _is_tensor(state.get(key))), None)
            if momentum is None:
                why[name] = NO_MOMENTUM
            elif gradient is None:
                why[name] = NO_GRADIENT
            elif is_dtensor(gradient) or is_dtensor(momentum):
                why[name] = SHARDED
                if not _is_alike(momentum, gradient):
                    why[name] = PLACED_APART
                    continue
                sharded.append(name)
                shards: Any = (momentum, gradient)
                here = _products(*map(local_tensor, shards))
                for column, product in zip(products, here, strict=True):
                    column.append(product)
            elif momentum.shape == gradient.shape:
                names.append(name)
                cosines.append(_cosine(momentum, gradient))
        layout = self._layout(sharded)
        pairs = zip(PRODUCTS, products, strict=True)
        listed = {kind: Listed(layout, column) for kind, column in pairs}
        return Listed(self._layout(names), cosines), listed, why

    def trained_of(self, owned: set[int] | None) -> Layout:
        """Return the names of trained parameters.

        Args:
            owned: Ids of the parameters that count, None for all.
        """
        pairs = zip(*self._pairs(), strict=True)
        meant = [n for n, p in pairs if p.requires_grad and (owned is None or id(p) in owned)]
        return self._layout(meant)

    @property
    def trained_shards(self) -> Layout:
        """The names of trained parameters that are DTensors."""
        pairs = zip(*self._pairs(), strict=True)
        return self._layout([name for name, p in pairs if p.requires_grad and is_dtensor(p)])

    def _pairs(self) -> tuple[Layout, list[Tensor]]:
        return self.weights.names, self.weights.tensors

    def _layout(self, names: list[str]) -> Layout:
        """Return one and the same tuple for the same names, so that it is compared by identity."""
        layout = tuple(names)
        return self._layouts.setdefault(layout, layout)


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _is_alike(momentum: Any, gradient: Any) -> bool:
    """Tell whether two tensors are DTensors with the same elements on this rank, none of a sum."""
    return (
        is_dtensor(momentum)
        and is_dtensor(gradient)
        and momentum.device_mesh == gradient.device_mesh
        and momentum.placements == gradient.placements
        and not any(placement.is_partial() for placement in gradient.placements)
    )


def _products(momentum: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return, of what this rank holds, the product of both and the squares, float64, no sync."""
    a, b = (x.detach().flatten().to(torch.float64) for x in (momentum, gradient))
    return torch.dot(a, b), torch.dot(a, a), torch.dot(b, b)


def _cosine(momentum: Tensor, gradient: Tensor) -> Tensor:
    """Return the cosine of two tensors as one number in float32 or float64, without a sync."""
    momentum, gradient = (
        x if x.layout is torch.strided else x.to_dense() for x in (momentum, gradient)
    )
    wide = torch.float64 if momentum.dtype is torch.float64 else torch.float32
    least = torch.finfo(wide).tiny
    a, b = (x.detach().to(wide).flatten() for x in (momentum, gradient))
    if not a.numel():
        return a.new_zeros(())
    # Largest element 1: the squares of small and of large gradients leave the range of float32.
    a, b = (x / torch.linalg.vector_norm(x, torch.inf).clamp_min(least) for x in (a, b))
    sizes: Tensor = torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b)
    return torch.dot(a, b).div_(sizes.clamp_min(least))


def _alike(second: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return a second moment and its gradient dense, of one floating dtype and one shape."""
    if gradient.layout is not torch.strided:
        gradient = gradient.to_dense()
    if second.dtype is not gradient.dtype:
        dtype = torch.promote_types(second.dtype, gradient.dtype)
        second, gradient = second.to(dtype), gradient.to(dtype)
    return second.expand_as(gradient), gradient


def _local_state(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state of an optimizer with the local tensors of DTensors."""
    if not any(map(is_dtensor, state.values())):
        return state
    return {name: local_tensor(x) if is_dtensor(x) else x for name, x in state.items()}


def check(named: list[tuple[str, nn.Parameter]], *, sharded: bool = False) -> None:
    """Refuse parameters that have no statistics when the monitor is made; integers are left out.

    Args:
        named: Parameters with their names.
        sharded: Take DTensors.

    Raises:
        TypeError: If one is a DTensor, sparse, complex, not initialised or on the meta device.
    """
    for name, parameter in named:
        what = no_statistics(parameter, sharded=sharded)
        if what is None or (parameter.layout is torch.strided and _is_integer(parameter)):
            continue
        todo = "leave it out with parameters="
        if isinstance(parameter, nn.UninitializedParameter):
            todo = f"run a batch through the model first, or {todo}"
        msg = (
            "initstats.Monitor: expected dense floating-point parameters with data, got"
            f" {name!r}: {what}; {todo}"
        )
        raise TypeError(msg)


def no_statistics(parameter: Tensor, *, sharded: bool = False) -> str | None:
    """Return why a parameter has no statistics here, None if it has; DTensors have if sharded."""
    if isinstance(parameter, nn.UninitializedParameter):
        return "one of a lazy module, not initialised"
    if is_dtensor(parameter) and not sharded:
        return "a DTensor; name the ranks that hold it with group="
    if parameter.layout is not torch.strided:
        return f"layout={parameter.layout}"
    if parameter.dtype not in _DTYPES:
        return f"dtype={parameter.dtype}"
    if parameter.is_meta:
        return "one on the meta device"
    return None


def _is_integer(parameter: Tensor) -> bool:
    return not parameter.is_complex() and not parameter.is_floating_point()


_DTYPES = {
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
}
