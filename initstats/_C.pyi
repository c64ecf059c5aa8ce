# The compiled module: csrc/ops/module.cpp.
from collections.abc import Sequence

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
def largest_below(dtype: str, x: float) -> float: ...
def philox4x32_10(key: int, counter: int, word2: int, word3: int) -> list[int]: ...
def smallest_at_least(dtype: str, x: float) -> float: ...
