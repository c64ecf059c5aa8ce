"""Watch operations between modules: products, softmaxes, tables and normalisations in eval mode."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from initstats.diagnostics.dataflow import AxisReport, NormCall, NormMode, TableReport

_PRODUCTS = (torch.mul, Tensor.mul, Tensor.mul_)
_MATRIX_PRODUCTS = (torch.matmul, Tensor.matmul, torch.bmm, Tensor.bmm)
_DIFFERENCES = (torch.sub, Tensor.sub, Tensor.__rsub__)
_SUMS = (torch.add, Tensor.add)
_SOFTMAX = (functional.softmax, torch.softmax, Tensor.softmax)
_LOG_SOFTMAX = (functional.log_softmax, torch.log_softmax, Tensor.log_softmax)
# Elementwise: what is normalised along an axis is so afterwards, or up to a factor.
_KEEPING = (
    *(functional.dropout, torch.dropout, Tensor.to, Tensor.type_as, Tensor.type, Tensor.float),
    *(Tensor.half, Tensor.bfloat16, Tensor.contiguous, Tensor.clone, torch.clone),
    *(torch.log, Tensor.log, Tensor.nan_to_num, torch.nan_to_num),
)
_ITSELF = "the model"  # as a place
_NORMS = {
    functional.batch_norm: "running statistics",
    functional.instance_norm: "running statistics",
}
_USUAL_EPSILON = 1e-3  # largest of published models
_TRAINING, _MOMENTUM, _EPSILON = (
    5,
    6,
    7,
)  # places among the arguments of batch_norm and instance_norm
_VECTOR, _MATRIX = 1, 2  # numbers of dimensions


@dataclass(frozen=True)
class _Normalised:
    """The axis along which a tensor adds up to 1, by its size and stride, which views keep."""

    name: str
    size: int
    stride: int


@dataclass(frozen=True)
class _Weighted:
    """Vectors times weights that add up to 1 along an axis, and the dimensions they differ in."""

    name: str
    axis: int
    varied: frozenset[int]


class Operations(TorchFunctionMode):
    """Context manager that notes what happens to tensors between modules.

    Args:
        producer: Tells which module made a tensor, "" when none did.
        place: Tells which module is running.
        batch: The tensors of the batch.

    Attributes:
        gates: Modules and functions whose output is a factor of other activations.
        axes: Softmaxes over another axis than the one that is summed over afterwards.
        norms: Norms that do not use or keep statistics of the batch, by place.
        drowned: Norms with an epsilon above that of published models, by place.
        tables: Tables of vectors that were read, by place.
        outer: Shapes of predictions and targets whose difference compares all with all.
    """

    def __init__(
        self,
        producer: Callable[[Tensor], str],
        place: Callable[[], str],
        batch: Iterable[Tensor] = (),
    ) -> None:
        super().__init__()
        self.gates: set[str] = set()
        self.axes: list[AxisReport] = []
        self.norms: dict[str, NormMode] = {}
        self.drowned: dict[str, NormCall] = {}
        self.tables: dict[str, TableReport] = {}
        self.outer: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        given = [x for x in batch if x.layout is torch.strided]
        self._given = {x.data_ptr() for x in given}
        self._given_shapes = {x.shape for x in given if x.dim()}
        self._producer = producer
        self._place = place
        self._normalised = WeakTensorKeyDictionary()
        self._weighted = WeakTensorKeyDictionary()
        self._watched = {
            **dict.fromkeys(_PRODUCTS, self._on_product),
            **dict.fromkeys((*_DIFFERENCES, *_SUMS), self._on_difference),
            **dict.fromkeys(_MATRIX_PRODUCTS, self._on_matrix_product),
            **dict.fromkeys((*_SOFTMAX, *_LOG_SOFTMAX), self._on_softmax),
            **dict.fromkeys(_KEEPING, self._on_kept),
            **dict.fromkeys(_NORMS, self._on_norm),
            **dict.fromkeys((functional.layer_norm, functional.rms_norm), self._on_row_norm),
            functional.group_norm: self._on_group_norm,
            functional.glu: self._on_gated,
            torch.lerp: self._on_mixed,
            Tensor.lerp: self._on_mixed,
            functional.embedding: self._on_table,
            functional.nll_loss: self._on_likelihood,
            torch.einsum: self._on_einsum,
            **dict.fromkeys((torch.sum, Tensor.sum), self._on_sum),
            **dict.fromkeys((torch.gather, Tensor.gather), self._on_gather),
        }

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the function, and note it when it is one of these."""
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        note = self._watched.get(func)
        if note is not None:
            note(args, kwargs, output)
        return output

    def _on_product(self, args: tuple[Any, ...], kwargs: Any, output: Any) -> None:
        """Note factors that are computed, of other computed values at least as many."""
        self._on_difference(args, kwargs, output)
        self._on_weighted(args, kwargs, output)
        factors = (*args, *kwargs.values())[:2]
        if not all(isinstance(x, Tensor) and x.is_floating_point() for x in factors):
            self._on_kept(args, kwargs, output)
            return
        for one, other in (factors, factors[::-1]):
            computed = other.requires_grad and not isinstance(other, nn.Parameter)
            if computed and 1 < one.numel() <= other.numel():
                self.gates.add(self._producer(one))

    def _on_gated(self, args: tuple[Any, ...], kwargs: Any, _output: Any) -> None:
        """Note the input of a gated linear unit, half of which is a gate."""
        x = args[0] if args else kwargs.get("input")
        if isinstance(x, Tensor):
            self.gates.add(self._producer(x))

    def _on_mixed(self, args: tuple[Any, ...], kwargs: Any, _output: Any) -> None:
        """Note the weight of an interpolation."""
        weight = args[2] if len(args) > 2 else kwargs.get("weight")  # noqa: PLR2004
        if isinstance(weight, Tensor):
            self.gates.add(self._producer(weight))

    def _on_difference(self, args: tuple[Any, ...], kwargs: Any, output: Any) -> None:
        """Note a difference [n, n] of predictions [n, 1] and targets [n], in any order.

        Targets are tensors of the batch, or what is computed of them: that has their shape.
        """
        terms = (*args, *kwargs.values())[:2]
        if not all(isinstance(x, Tensor) for x in terms) or self._place():
            return
        for one, other in (terms, terms[::-1]):
            alike = _longer(one.shape) == _longer(other.shape) and one.dim() != other.dim()
            made = other.shape in self._given_shapes and not other.requires_grad
            target = other.data_ptr() in self._given or made
            if alike and target and one.requires_grad:
                if output.numel() > one.numel():
                    self.outer.append((tuple(one.shape), tuple(other.shape)))
                return

    def _on_softmax(self, args: tuple[Any, ...], kwargs: Any, output: Any) -> None:
        """Remember along which axis a softmax adds up to 1."""
        x = args[0] if args else kwargs["input"]
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        if not isinstance(output, Tensor) or not isinstance(x, Tensor) or not output.dim():
            return
        if dim is None:  # as torch.nn.functional chooses it
            dim = 0 if output.dim() in {0, 1, 3} else 1
        self._mark(output, "softmax", dim)
        # One key for one query is a short sequence.
        if output.shape[dim] == 1 and any(size > 1 for size in output.shape[-2:]):
            self._fault("softmax", output, dim, None)

    def _on_kept(self, args: tuple[Any, ...], kwargs: Any, output: Any) -> None:
        """Carry the axis over to the result of an elementwise function."""
        x = args[0] if args else kwargs.get("input")
        if not isinstance(x, Tensor) or not isinstance(output, Tensor) or x.shape != output.shape:
            return
        known = self._known(x)
        axis = None if known is None else _axis(x, known)
        if known is not None and axis is not None and output is not x:
            self._mark(output, known.name, axis)

    def _on_matrix_product(self, args: tuple[Any, ...], kwargs: Any, _output: Any) -> None:
        """Compare the axis of a softmax with the one that a product sums over."""
        factors = (*args, *kwargs.values())[:2]
        if not all(isinstance(x, Tensor) and x.dim() >= _MATRIX for x in factors):
            return
        self._compare(factors[0], factors[0].dim() - 1)
        self._compare(factors[1], factors[1].dim() - 2)

    def _on_einsum(self, args: tuple[Any, ...], _kwargs: Any, _output: Any) -> None:
        """Compare the axis of a softmax with those that an einsum sums over."""
        if not args or not isinstance(args[0], str) or "->" not in args[0] or "." in args[0]:
            return
        left, _, right = args[0].replace(" ", "").partition("->")
        tensors = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else args[1:]
        for letters, x in zip(left.split(","), tensors, strict=False):
            known = self._known(x) if isinstance(x, Tensor) else None
            axis = None if known is None else _axis(x, known)
            if axis is not None and len(letters) == x.dim() and letters[axis] in right:
                summed = next((i for i, c in enumerate(letters) if c not in right), None)
                if summed is not None:
                    self._fault("softmax", x, axis, summed)

    def _on_weighted(self, args: tuple[Any, ...], kwargs: Any, output: Any) -> None:
        """Remember a product of vectors and the weights of a softmax, one for each vector."""
        factors = (*args, *kwargs.values())[:2]
        if not all(isinstance(x, Tensor) for x in factors) or not isinstance(output, Tensor):
            return
        for weights, vectors in (factors, factors[::-1]):
            known = self._known(weights)
            axis = (
                None if known is None or weights.dim() != vectors.dim() else _axis(weights, known)
            )
            spread = [d for d in range(weights.dim()) if weights.shape[d] < output.shape[d]]
            if known is not None and axis is not None and spread:
                varied = {d for d in range(weights.dim()) if weights.shape[d] > 1}
                self._weighted[output] = _Weighted(known.name, axis, frozenset(varied))

    def _on_sum(self, args: tuple[Any, ...], kwargs: Any, _output: Any) -> None:
        """Compare the axis of weights with the one along which weighted vectors are summed."""
        x = args[0] if args else kwargs.get("input")
        dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
        weighted = self._weighted.get(x) if isinstance(x, Tensor) else None  # type: ignore[no-untyped-call]
        if weighted is None or dims is None:
            return
        summed = {d % x.dim() for d in (dims if isinstance(dims, (list, tuple)) else (dims,))}
        if weighted.axis not in summed and summed <= weighted.varied:
            self._fault(weighted.name, x, weighted.axis, min(summed))

    def _on_gather(self, args: tuple[Any, ...], kwargs: Any, output: Any) -> None:
        """Compare the axis of a log_softmax with the one along which targets are picked."""
        named = dict(zip(("input", "dim", "index"), args, strict=False)) | kwargs
        x, dim = named.get("input", named.get("self")), named.get("dim")
        if isinstance(x, Tensor) and isinstance(dim, int) and output.shape[dim] == 1:
            self._compare(x, dim % x.dim())

    def _on_likelihood(self, args: tuple[Any, ...], kwargs: Any, _output: Any) -> None:
        """Compare the axis of a log_softmax with the classes of a likelihood."""
        x = args[0] if args else kwargs.get("input")
        if isinstance(x, Tensor):
            self._compare(x, min(1, x.dim() - 1))

    def _on_norm(self, args: tuple[Any, ...], kwargs: Any, _output: Any) -> None:
        """Note a norm that uses statistics which nothing has filled, or does not keep them."""
        mean, variance = (
            args[i] if len(args) > i else kwargs.get(name)
            for i, name in ((1, "running_mean"), (2, "running_var"))
        )
        given = kwargs.get("training", kwargs.get("use_input_stats"))
        training = bool(args[_TRAINING] if len(args) > _TRAINING else given)
        momentum = args[_MOMENTUM] if len(args) > _MOMENTUM else kwargs.get("momentum", 0.1)
        with_statistics = isinstance(mean, Tensor) and isinstance(variance, Tensor)
        if training or not with_statistics:
            self._drown_batch(args, kwargs)
        if not with_statistics:
            return
        if not training and torch.is_grad_enabled():  # a teacher evaluates without gradients
            untouched = bool((mean == 0).all()) and bool((variance == 1).all())
            if untouched:
                self.norms.setdefault(self._place() or _ITSELF, "eval")
        elif momentum == 0:
            self.norms.setdefault(self._place() or _ITSELF, "forgets")

    def _on_row_norm(self, args: tuple[Any, ...], kwargs: Any, _output: Any) -> None:
        """Note a large epsilon of a norm over the last dimensions."""
        named = dict(zip(("input", "normalized_shape", "weight"), args, strict=False)) | kwargs
        with_bias = len(args) > 4  # noqa: PLR2004  # layer_norm has a bias before epsilon
        epsilon = args[-1] if with_bias else kwargs.get("eps")
        if isinstance(epsilon, float) and epsilon > _USUAL_EPSILON:
            x = named["input"].detach().float().flatten(-len(named["normalized_shape"]))
            self._drown(x.var(-1, correction=0), epsilon)

    def _on_group_norm(self, args: tuple[Any, ...], kwargs: Any, _output: Any) -> None:
        """Note a large epsilon of a norm over groups of channels."""
        named = dict(zip(("input", "num_groups", "weight", "bias", "eps"), args, strict=False))
        named |= kwargs
        epsilon = named.get("eps")
        if isinstance(epsilon, float) and epsilon > _USUAL_EPSILON:
            x = named["input"].detach().float()
            self._drown(x.reshape(len(x), named["num_groups"], -1).var(-1), epsilon)

    def _drown_batch(self, args: tuple[Any, ...], kwargs: Any) -> None:
        """Note a large epsilon of a norm over the batch."""
        x = args[0] if args else kwargs["input"]
        epsilon = args[_EPSILON] if len(args) > _EPSILON else kwargs.get("eps", 0.0)
        if epsilon > _USUAL_EPSILON and x.dim() > 1:
            self._drown(x.detach().float().movedim(1, 0).flatten(1).var(1), epsilon)

    def _drown(self, variances: Tensor, epsilon: float) -> None:
        """Keep a norm and the mean of its variances; rows of padding have none."""
        variances = variances[variances > 0]
        if variances.numel():
            call = NormCall(float(epsilon), float(variances.mean()))
            self.drowned.setdefault(self._place() or _ITSELF, call)

    def _on_table(self, args: tuple[Any, ...], kwargs: Any, _output: Any) -> None:
        """Note how many different rows of a table are read."""
        ids = args[0] if args else kwargs["input"]
        weight = args[1] if len(args) > 1 else kwargs["weight"]
        if isinstance(ids, Tensor) and ids.numel() and isinstance(weight, Tensor):
            place = self._place() or _ITSELF
            first, last = (int(x) for x in torch.aminmax(ids))
            known = self.tables.get(place)
            if known is not None:
                first, last = min(first, known.first), max(last, known.last)
            count = ids.numel() + (known.count if known is not None else 0)
            self.tables[place] = TableReport(weight.shape[0], count, first, last)

    def _compare(self, x: Tensor, summed: int) -> None:
        """Note a tensor whose axis of softmax is not the one that is summed over."""
        known = self._known(x)
        if known is None or 1 in {known.size, x.shape[summed]}:
            return
        if (x.shape[summed], x.stride(summed)) != (known.size, known.stride):
            self._fault(known.name, x, _axis(x, known), summed)

    def _mark(self, x: Tensor, name: str, dim: int) -> None:
        """Remember the axis of a tensor."""
        self._normalised[x] = _Normalised(name, x.shape[dim], x.stride(dim))

    def _known(self, x: Tensor) -> _Normalised | None:
        """Return the axis of a tensor, or of the one that it is a view of."""
        base = x._base  # noqa: SLF001
        whole = base if base is not None and base.numel() == x.numel() else x
        found: _Normalised | None = self._normalised.get(whole)  # type: ignore[no-untyped-call]
        return found

    def _fault(self, name: str, x: Tensor, axis: int | None, summed: int | None) -> None:
        """Keep a softmax over a wrong axis."""
        place = self._place()
        where = f"{place}.{name}()" if place else f"{name}()"
        report = AxisReport(where, tuple(x.shape), axis, summed)
        if report not in self.axes:
            self.axes.append(report)


def _longer(shape: torch.Size) -> list[int]:
    """Return the dimensions that are longer than 1."""
    return [size for size in shape if size > 1]


def _axis(x: Tensor, known: _Normalised) -> int | None:
    """Return the dimension of a view that is the axis, None where it is none of its own."""
    same = [d for d in range(x.dim()) if (x.shape[d], x.stride(d)) == (known.size, known.stride)]
    return same[0] if len(same) == 1 else None
