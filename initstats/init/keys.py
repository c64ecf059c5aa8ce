"""Where the 64-bit key of a fill comes from: a seed and a name, or a random number generator.

A key and the number of an element decide every bit of a fill: docs/explanation/stream.md.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Sequence

import torch

from initstats import _ops

_UINT64 = 1 << 64
_OF_THREAD = threading.local()


def key_of(seed: int, name: str | None = None) -> int:
    """Return the 64-bit key of a named tensor.

    Args:
        seed: Any integer in [-2**63, 2**64), NumPy's too, taken modulo 2**64 (so that -1 and
            2**64 - 1 agree, as in torch).
        name: Usually the parameter's name; None and "" are different names.

    Returns:
        The first 8 bytes, little-endian, of BLAKE2b over a domain tag, the seed and the name.

    Raises:
        TypeError: seed is not an integer or name is not a string.
        ValueError: seed lies outside [-2**63, 2**64).

    Determinism: bitwise.
    Source: RFC 7693 (BLAKE2b).
    """
    return _key_of(integer_seed("key_of", seed), name)


def _key_of(seed: int, name: str | None) -> int:
    if name is not None and not isinstance(name, str):
        raise TypeError(
            f"initstats.key_of: expected name to be a string or None, got name={name!r}"
        )
    return _ops.key_of(seed, name)


def draw_keys(
    function: str,
    count: int,
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    names: Sequence[str | None] | None = None,
) -> list[int]:
    """Return one key per tensor, as signed 64-bit integers for the ops.

    With `seed`, the keys come from it and the names (or, for several unnamed tensors, their
    positions); no generator moves. Otherwise each tensor takes one 64-bit draw: from `generator`,
    or from torch's default CPU generator whatever the device of the tensor, so that
    `torch.manual_seed` alone decides the weights on every device.

    A CUDA generator is read and advanced on the host: the key is a hash of its seed and offset, and
    the offset grows by 4 per tensor. The device is not touched.

    Raises:
        TypeError: generator is not a torch.Generator.
        ValueError: seed and generator are both given, names are given without seed, or seed is out
            of range.
    """
    if seed is not None:
        if generator is not None:
            raise ValueError(
                f"initstats.{function}: expected seed or generator, got both"
                " (leave one of them out)"
            )
        seed = integer_seed(function, seed)
        if names is None:
            return [_signed(_key_of(seed, f"#{i}" if i else None)) for i in range(count)]
        return [_signed(_key_of(seed, name)) for name in names]
    if names is not None and any(name is not None for name in names):
        raise ValueError(f"initstats.{function}: expected a seed with name, got name without seed")
    if generator is None:
        generator = torch.default_generator
    elif not isinstance(generator, torch.Generator):
        raise TypeError(
            f"initstats.{function}: expected generator to be a torch.Generator,"
            f" got {type(generator).__name__}"
        )
    if generator.device.type == "cpu":
        if count == 0:
            return []
        drawn: list[int] = _draw(count, generator).tolist()
        return drawn
    keys = []
    for _ in range(count):
        offset = generator.get_offset()
        keys.append(_signed(key_of(generator.initial_seed(), f"offset {offset}")))
        generator.set_offset(offset + 4)  # torch keeps offsets multiples of 4
    return keys


def draw_key(
    function: str,
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    name: str | None = None,
) -> int:
    """Return what `draw_keys` returns for one tensor, in a quarter of the time."""
    if seed is None and name is None:
        known = generator is None
        if known or getattr(getattr(generator, "device", None), "type", None) == "cpu":
            return int(_draw(1, generator).item())
    names = None if name is None else [name]
    return draw_keys(function, 1, generator=generator, seed=seed, names=names)[0]


def _draw(count: int, generator: torch.Generator | None) -> torch.Tensor:
    """Return so many draws from a CPU generator, int64; one alone until the thread's next."""
    draws = _buffer() if count == 1 else torch.empty(count, dtype=torch.int64, device="cpu")
    # Over the full range these are 64 random bits per element, one engine draw of 64 bits each.
    return draws.random_(-(2**63), None, generator=generator)


_ops.allow_direct_calls(_draw)


def _buffer() -> torch.Tensor:
    """Return this thread's place for one draw: making a tensor takes longer than drawing."""
    buffer: torch.Tensor | None = getattr(_OF_THREAD, "buffer", None)
    if buffer is None:
        # Outside of inference mode both kinds of code may write to it.
        with torch.inference_mode(mode=False):
            buffer = _OF_THREAD.buffer = torch.empty(1, dtype=torch.int64, device="cpu")
    return buffer


def _signed(key: int) -> int:
    return key - _UINT64 if key >= _UINT64 // 2 else key


def integer_seed(function: str, seed: object) -> int:
    """Return the seed as a Python integer, whatever integer it is.

    Raises:
        TypeError: not an integer, or a bool.
        ValueError: outside [-2**63, 2**64).
    """
    number = seed if type(seed) is int else _index(seed)
    if number is None:
        raise TypeError(f"initstats.{function}: expected seed to be an integer, got seed={seed!r}")
    if not -_UINT64 // 2 <= number < _UINT64:
        raise ValueError(f"initstats.{function}: expected seed in [-2**63, 2**64), got seed={seed}")
    return number


def _index(value: object) -> int | None:
    """Return what is an integer as one; bools and tensors are not meant as seeds."""
    if isinstance(value, (bool, torch.Tensor)):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]  # this is the check
    except TypeError:
        return None
