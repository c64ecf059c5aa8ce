"""Golden values of the stream: `make golden` adds the rows that tests/vectors/stream_v1.txt lacks.

A row is the SHA-256 of 10007 elements of one dtype, filled with an example of a distribution. A row
that is there is never rewritten: other bits are a change of the stream.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from initstats.init import random
from initstats.init._distributions import DISTRIBUTIONS

VECTORS = Path(__file__).parents[1] / "vectors/stream_v1.txt"
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]

# The fills of every example of every distribution, by label: they take a tensor.
FILLS: dict[str, Callable[..., torch.Tensor]] = {
    label: partial(
        lambda fill, numbers, tensor: fill(tensor, *numbers, seed=2026, name="golden"),
        getattr(random, family.name),
        numbers,
    )
    for family in DISTRIBUTIONS
    if hasattr(random, family.name)  # or tests/init/test_distributions.py says so
    for label, numbers in family.examples.items()
}


def row(label: str, dtype: torch.dtype) -> str:
    """Return the name of a row."""
    return f"{label}/{str(dtype).removeprefix('torch.')}"


def golden_hash(label: str, dtype: torch.dtype, device: torch.device) -> str:
    tensor = torch.empty(10_007, dtype=dtype, device=device)
    FILLS[label](tensor)
    return hashlib.sha256(tensor.cpu().view(torch.uint8).numpy().tobytes()).hexdigest()


def golden_hashes(path: Path = VECTORS) -> dict[str, str]:
    """Return the rows of the file."""
    lines = path.read_text().splitlines()
    return dict(line.split() for line in lines if not line.startswith("#"))


def present_hashes() -> dict[str, str]:
    """Return the rows as they are on this CPU."""
    cpu = torch.device("cpu")
    return {
        row(label, dtype): golden_hash(label, dtype, cpu) for label in FILLS for dtype in DTYPES
    }


def add_missing_rows(path: Path = VECTORS) -> list[str]:
    """Add the rows that are missing, and return their names.

    Raises:
        ValueError: if a row that is there has other bits now; nothing is written then.
    """
    golden, present = golden_hashes(path), present_hashes()
    changed = [name for name in present if golden.get(name, present[name]) != present[name]]
    if changed:
        raise ValueError(
            f"[stream] {', '.join(changed)}: other bits than the golden ones. If that is meant,"
            " delete these rows, add the new ones by `make golden`, and give the change an entry"
            " with the label [stream] in CHANGELOG.md."
        )
    missing = {name: value for name, value in present.items() if name not in golden}
    with path.open("a") as file:
        file.writelines(f"{name} {value}\n" for name, value in missing.items())
    return list(missing)


def main() -> None:
    try:
        added = add_missing_rows()
    except ValueError as error:
        sys.exit(str(error))
    print("\n".join(f"added {name}" for name in added) or "no golden row is missing")


if __name__ == "__main__":
    main()
