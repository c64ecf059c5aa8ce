"""The first call of an op in a process, in the capture of a CUDA graph: its kernels load there.

    python tests/gpu/captures.py NAME [cuda|cpu]

Prints "equal" where the replay has the bits of the CPU; on a CPU, where there are no graphs, the
call is made plainly. `NAMES` are run by measure.py, each in a process of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch

import initstats as ist

Result = list[torch.Tensor]


def _fill(t: torch.Tensor) -> Result:
    return [ist.normal_(t, seed=1)]


def _list(t: torch.Tensor) -> Result:
    ist.foreach_uniform_(list(t.view(64, -1)), seed=1)
    return [t]


def _sparse(t: torch.Tensor) -> Result:
    return [ist.sparse_(t.view(256, -1), 0.3, seed=1)]


def _small_orthogonal(t: torch.Tensor) -> Result:
    return [ist.orthogonal_(t.view(-1, 64, 64), batch_dims=1, seed=1)]


def _statistics(t: torch.Tensor) -> Result:
    _records.append(ist.stats(t.zero_().add_(1), fingerprint=True))
    return []


def _slices(t: torch.Tensor) -> Result:
    return [ist.stats(t.zero_().add_(1).view(256, -1), dim=0).mean]


_records: list[ist.Record] = []  # read after the replay: reading synchronises
NAMES: dict[str, Callable[[torch.Tensor], Result]] = {
    "fill": _fill,
    "list of fills": _list,
    "sparse_": _sparse,
    "small orthogonal_": _small_orthogonal,
    "statistics": _statistics,
    "slices": _slices,
}


def main(name: str, device: str) -> None:
    """Capture the call, replay it twice, and compare with the CPU."""
    n = 1 << 16
    t = torch.empty(n, device=device)
    if device == "cuda":
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):  # capture_error_mode="global", the strictest
            found = NAMES[name](t)
        t.fill_(7)
        graph.replay()
        graph.replay()
        torch.cuda.synchronize()
    else:
        found = NAMES[name](t)
    expected = NAMES[name](torch.empty(n))
    equal = all(torch.equal(a.cpu(), b) for a, b in zip(found, expected, strict=True))
    if _records:
        equal = len({str(record.to_dict()) for record in _records}) == 1
    print("equal" if equal else "OTHER BITS than on the CPU")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "cuda")
