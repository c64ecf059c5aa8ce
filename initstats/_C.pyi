# The compiled module: csrc/ops/module.cpp.
from collections.abc import Callable, Sequence
from typing import Any

import torch

def bind_torch(
    tensor: type[torch.Tensor],
    parameter: type[torch.Tensor],
    seen: tuple[Callable[[], object], ...],
    draw: Callable[[int, torch.Generator | None], torch.Tensor],
    increment_version: Callable[[torch.Tensor | list[torch.Tensor]], None],
    take_handles: Callable[[list[Any]], list[torch.Tensor]] | None,
    /,
) -> None: ...
def build_info() -> dict[str, str]: ...
def check_storage(
    op: str,
    sizes: Sequence[int],
    strides: Sequence[int],
    storage_bytes: int,
    item_bytes: int,
    offset: int,
) -> None: ...
def check_memory(
    op: str,
    sizes: Sequence[int],
    strides: Sequence[int],
    storage_bytes: int,
    item_bytes: int,
    offset: int,
) -> None: ...
def fill_directly(
    op: str,
    check: Callable[..., None],
    function: str,
    tensors: torch.Tensor | list[torch.Tensor],
    values: tuple[object, ...],
    generator: torch.Generator | None,
    seed: int | None,
    names: str | list[str | None] | None,
    /,
) -> bool: ...
def key_of(seed: int, name: str | None, /) -> int: ...
def largest_below(dtype: str, x: float) -> float: ...
def philox4x32_10(key: int, counter: int, word2: int, word3: int) -> list[int]: ...
def smallest_at_least(dtype: str, x: float) -> float: ...
def stats_directly(
    tensors: torch.Tensor | list[torch.Tensor], groups: int, scale: int, /
) -> tuple[bytes, bytes, bytes] | tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None: ...
