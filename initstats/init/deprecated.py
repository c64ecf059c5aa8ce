"""Names without the trailing underscore, which torch.nn.init keeps with a FutureWarning."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from initstats.init import constant_fills, orthogonal_fills, random, sparse_fills, xavier_kaiming

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def deprecated_name_of(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Return the function under its name without the underscore, with torch's warning."""
    new = function.__name__
    old = new.removesuffix("_")

    @functools.wraps(function)
    def deprecated(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        warnings.warn(
            f"`nn.init.{old}` is now deprecated in favor of `nn.init.{new}`.",
            FutureWarning,
            stacklevel=2,
        )
        return function(*args, **kwargs)

    deprecated.__name__ = deprecated.__qualname__ = old
    deprecated.__module__ = __name__
    deprecated.__doc__ = f"Call `{new}` with a FutureWarning: the name of old torch versions."
    return deprecated


uniform = deprecated_name_of(random.uniform_)
normal = deprecated_name_of(random.normal_)
constant = deprecated_name_of(constant_fills.constant_)
eye = deprecated_name_of(constant_fills.eye_)
dirac = deprecated_name_of(constant_fills.dirac_)
xavier_uniform = deprecated_name_of(xavier_kaiming.xavier_uniform_)
xavier_normal = deprecated_name_of(xavier_kaiming.xavier_normal_)
kaiming_uniform = deprecated_name_of(xavier_kaiming.kaiming_uniform_)
kaiming_normal = deprecated_name_of(xavier_kaiming.kaiming_normal_)
orthogonal = deprecated_name_of(orthogonal_fills.orthogonal_)
sparse = deprecated_name_of(sparse_fills.sparse_)
