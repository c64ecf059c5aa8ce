"""An independent NumPy model of the stream: which bits a key gives. Nothing here calls the code
under test.

Sources: Philox4x32-10 from Salmon et al. 2011, figure 2; keys from RFC 7693 through hashlib; the
normal from scipy's double precision inverse CDF.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

Words = npt.NDArray[np.uint32]


def philox4x32_10(counter: npt.NDArray[np.uint64], key: int, purpose: int) -> Words:
    """Return the words of counters (lo, hi, purpose, 0), shape [len(counter), 4]."""
    c = [
        counter & 0xFFFFFFFF,
        counter >> np.uint64(32),
        np.full_like(counter, purpose),
        np.zeros_like(counter),
    ]
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [
            (p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k0),
            p1 & np.uint64(0xFFFFFFFF),
            (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k1),
            p0 & np.uint64(0xFFFFFFFF),
        ]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(c, axis=1).astype(np.uint32)


def words(key: int, index: npt.NDArray[np.uint64], purpose: int = 0) -> Words:
    """Return the word of every element index."""
    return philox4x32_10(index // np.uint64(4), key, purpose)[
        np.arange(len(index)), (index % 4).astype(int)
    ]


def wide_words(key: int, index: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the 64-bit words: high halves from purpose 0, low halves from purpose 1."""
    return words(key, index, 0).astype(np.uint64) << np.uint64(32) | words(key, index, 1)


def key_of(seed: int, name: str | None) -> int:
    """Return the key of a seed and a name."""
    message = b"initstats key v1" + (seed % 2**64).to_bytes(8, "little")
    message += b"\0" if name is None else b"\1" + name.encode()
    return int.from_bytes(hashlib.blake2b(message, digest_size=8).digest(), "little")


def uniform01(key: int, index: npt.NDArray[np.uint64]) -> npt.NDArray[np.float32]:
    """Return the float32 uniforms in [0, 1): 24 bits, exact."""
    return ((words(key, index) >> np.uint32(8)) * np.float64(2.0**-24)).astype(np.float32)


def uniform01_float64(key: int, index: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Return the float64 uniforms in [0, 1): 53 bits, exact."""
    return (wide_words(key, index) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(key: int, index: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Return the normals of float32 fills in double: sign bit, then p = (k + 1/2) / 2**32."""
    word = words(key, index)
    p = ((word & np.uint32(0x7FFFFFFF)).astype(np.float64) + 0.5) * 2.0**-32
    return np.where(word >> np.uint32(31), -1.0, 1.0) * -ndtri(p)


def uniform31(key: int, index: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Return the u of truncated normals of float32 fills: (k + 1/2) / 2**31."""
    return ((words(key, index) >> np.uint32(1)).astype(np.float64) + 0.5) * 2.0**-31
