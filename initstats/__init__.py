"""initstats: fast initialisers, fused statistics of every layer, and an audit of whether a model starts well."""

from initstats.fills import (
    foreach_normal_,
    foreach_trunc_normal_,
    foreach_uniform_,
    normal_,
    trunc_normal_,
    uniform_,
)
from initstats.keys import key_of

__version__ = "0.1.0"

__all__ = [
    "foreach_normal_",
    "foreach_trunc_normal_",
    "foreach_uniform_",
    "key_of",
    "normal_",
    "trunc_normal_",
    "uniform_",
]
