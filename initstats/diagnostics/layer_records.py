"""Records of one module during a pass; no computed tensor is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from initstats.diagnostics.nested import nested_tensors
from initstats.diagnostics.unit_records import UnitRecords
from initstats.statistics.record import Stats

_SAMPLE = 1 << 16
_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,  # noqa: SLF001  # the base of all convolutions
    nn.modules.batchnorm._NormBase,  # noqa: SLF001  # the base of batch and instance norms
    nn.GroupNorm,
)
_IMAGE_DIMS = 4


class Logits(NamedTuple):
    """Query and key of an attention, and the factor on their product.

    Attributes:
        query: Record of the queries.
        key: Record of the keys.
        factor: sqrt(head width) times the scale of the attention, so that factor * rms(query) *
            rms(key) is the std of logits of independent queries and keys.
    """

    query: Stats
    key: Stats
    factor: float


@dataclass
class Flow:
    """Records of one module: one per call.

    Attributes:
        kind: Class of the module, or name of the function.
        outputs: Of its output.
        gradients: Of the gradient of its output.
        inputs: Of its first floating-point input.
        units: Of the units of its output, by the module that made the input, merged over calls.
        producers: Modules that made its inputs.
        from_batch: True when an input is a tensor of the batch itself.
        dtype: Type of the output, without "torch.".
        products: Size n and dot products (x, x), (x, y), (y, y) of a sample of input x and output
            y, [4].
        logits: Of an attention.
        row_length: Length of the rows of a softmax, 0 otherwise.
    """

    kind: str
    outputs: list[Stats] = field(default_factory=list)
    gradients: list[Stats] = field(default_factory=list)
    inputs: list[Stats] = field(default_factory=list)
    units: dict[tuple[str, int], UnitRecords] = field(default_factory=dict)
    producers: dict[str, None] = field(default_factory=dict)
    from_batch: bool = False
    dtype: str = ""
    products: list[Tensor] = field(default_factory=list)
    logits: list[Logits] = field(default_factory=list)
    row_length: int = 0

    def add_units(self, producer: str, records: UnitRecords | None) -> None:
        """Merge records of units into those with the same producer."""
        if records is not None:
            place = (producer, len(records))
            known = self.units.get(place)
            self.units[place] = records if known is None else known.merge(records)


def unit_axis(module: nn.Module, tensor: Tensor, inherited: int | None) -> int:
    """Tell which dimension of an output counts units.

    Args:
        module: The module that made it.
        tensor: The output, of one dimension or more.
        inherited: The dimension in its input when it has the same number of dimensions.

    Returns:
        The dimension, >= 0: channels come second after convolutions and batch norms and last
        elsewhere; a module without parameters keeps the dimension of its input.
    """
    last = tensor.dim() - 1
    if isinstance(module, _CHANNELS_FIRST):
        return min(1, last)
    if next(module.parameters(recurse=False), None) is not None:
        return last
    if inherited is not None:
        return min(inherited, last)
    return 1 if tensor.dim() >= _IMAGE_DIMS else last


def dot_products(x: Tensor, y: Tensor) -> Tensor:
    """Return the size of a sample of two tensors and its dot products. Asynchronous.

    Means of units are taken off before: behind rectifiers both are positive, and would be alike
    without any path between them.

    Args:
        x: The input of a block, of one dimension or more.
        y: Its output, of the same shape.

    Returns:
        n, (x, x), (x, y) and (y, y) of the same n <= 65,536 elements, [4].
    """
    a, b = _centred_sample(x), _centred_sample(y)
    count = torch.full((), float(a.numel()), device=a.device)
    return torch.stack([count, a.square().sum(), (a * b).sum(), b.square().sum()])


def floating_tensors(value: object) -> Iterator[Tensor]:
    """Yield the floating-point tensors of the nested inputs or outputs of a module, in order."""
    return (tensor for tensor in nested_tensors(value) if tensor.is_floating_point())


def _centred_sample(tensor: Tensor) -> Tensor:
    """Return rows of a tensor without the means of their units, [rows, units], in float32."""
    tensor = tensor.detach()
    if tensor.dim() > 1:  # whole examples, before anything is copied
        tensor = tensor[: max(1, _SAMPLE * tensor.shape[0] // max(1, tensor.numel()))]
    if tensor.dim() >= _IMAGE_DIMS:
        tensor = tensor.movedim(1, -1)
    units = tensor.shape[-1] if tensor.dim() else 1
    rows = tensor.reshape(-1, units)[: max(2, _SAMPLE // max(1, units))].float()
    return rows - rows.mean(0)
