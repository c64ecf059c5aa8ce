"""Tensors of a checkpoint, which is read in blocks where it may not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

# Where training frameworks put the parameters beside steps, optimizers and configurations.
CHECKPOINT_KEYS = ("model", "state_dict", "model_state_dict")
# Dtypes of parameters, as against quantised ones.
FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
_TABLE_DIMS = 2

Offset = tuple[int, ...]
Block = tuple[Tensor, Offset]  # a part of a tensor, and the index of its first element in the whole


@dataclass
class Checkpoint:
    """The tensors of a checkpoint.

    Attributes:
        tensors: By name. On the CPU, mapped from the file where its format allows it; on the meta
            device where `read` reads them.
        left_out: Names of what could not be read, with the reason.
        stored: Offsets and sizes of the blocks in which each tensor on the meta device is stored,
            without gaps and overlaps, in the order of their offsets.
        read: Reads a block of a tensor by name, offset and size; for tensors on the meta device.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    stored: dict[str, list[tuple[Offset, Offset]]] = field(default_factory=dict)
    read: Callable[[str, Sequence[int], Sequence[int]], Tensor] | None = None

    def block(self, name: str, offset: Sequence[int], size: Sequence[int]) -> Tensor:
        """Return a block of a tensor.

        Args:
            name: Of the tensor.
            offset: Index of the block's first element in the tensor.
            size: Sizes of the block.

        Raises:
            ValueError: If it cannot be read.
        """
        tensor = self.tensors[name]
        if self.read is not None and tensor.is_meta:
            return self.read(name, offset, size)
        for dim, (start, length) in enumerate(zip(offset, size, strict=True)):
            tensor = tensor.narrow(dim, start, length)
        return tensor

    def blocks(self, name: str) -> Iterator[Block]:
        """Yield the stored blocks of a tensor, one in memory at a time; a mapped tensor is one.

        Args:
            name: Of the tensor.

        Raises:
            ValueError: If a block cannot be read.
        """
        if name not in self.stored:
            yield self.tensors[name], (0,) * self.tensors[name].dim()
            return
        for offset, size in self.stored[name]:
            yield self.block(name, offset, size), offset

    def padding_row(self, name: str) -> int | None:
        """Return the only row of zeros of a table; None where there is none, or more.

        Args:
            name: Of the table, [rows, width].

        Raises:
            ValueError: If a block cannot be read.
        """
        table = self.tensors[name]
        if table.dtype not in FLOATS or table.dim() != _TABLE_DIMS or len(table) <= 1:
            return None
        filled = torch.zeros(len(table), dtype=torch.bool)
        for block, offset in self.blocks(name):
            filled[offset[0] : offset[0] + len(block)] |= block.any(dim=1)
        zero = (~filled).nonzero().flatten().tolist()
        return zero[0] if len(zero) == 1 else None
