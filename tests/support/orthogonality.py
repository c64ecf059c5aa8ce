"""How far a matrix is from orthogonal, the product that it should be, and what memory it takes."""

from __future__ import annotations

import math

import torch

import initstats
from initstats.init._distributions import NORMAL


def defect(q: torch.Tensor) -> float:
    """Return the Frobenius norm of Q^t Q - I over sqrt(n), of the shorter side."""
    q = q.reshape(q.shape[0], -1).double()
    gram = q @ q.t() if q.shape[0] <= q.shape[1] else q.t() @ q
    return float(torch.linalg.matrix_norm(gram - torch.eye(len(gram)))) / math.sqrt(len(gram))


def signed_key(seed: int) -> int:
    """Return the key of a seed as the ops take it."""
    key = initstats.key_of(seed)
    return key - (1 << 64) if key >> 63 else key


def product_of_reflections(
    key: int, m: int, n: int, dtype: torch.dtype, number: int = 0
) -> torch.Tensor:
    """Return the first n columns of H_0 ... H_(n-1) D in float64, one dense reflection by one.

    An oracle for how the panels are put together: it shares only the normals with the code.
    """
    pitch = -(-m // 4) * 4
    x = torch.empty(n, pitch, dtype=dtype)
    NORMAL.op([x], [key], [0.0], [1.0], [number * n, 0, (number + 1) * n, pitch])
    x = x[:, :m].double().triu()
    product, signs = torch.eye(m, dtype=torch.float64), []
    for r in range(n):
        v = x[r].clone()
        sign = 1.0 if float(v[r]) >= 0 else -1.0
        v[r] += sign * v.norm()
        product -= torch.outer(product @ v, v) * (2 / v.dot(v))
        signs.append(-sign)
    return product[:, :n] * torch.tensor(signs, dtype=torch.float64)


def peak_bytes(call: object) -> int:
    """Return the most memory that torch's CPU allocator held during a call, beyond before it."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        call()  # type: ignore[operator]
    held = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most
