"""Dispatch of fills to `__torch_function__` of tensor subclasses and modes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torch.overrides import handle_torch_function, has_torch_function_variadic

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def overridable(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Return the function, handing calls to `__torch_function__` of its first argument or a mode.

    As in torch.nn.init, the function that a handler gets is the public one.
    """

    @functools.wraps(function)
    def dispatching(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        tensor = args[0] if args else kwargs.get("tensor")
        if has_torch_function_variadic(tensor):
            handled: _Result = handle_torch_function(dispatching, (tensor,), *args, **kwargs)
            return handled
        return function(*args, **kwargs)

    return dispatching
