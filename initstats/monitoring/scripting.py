"""Keep the hooks of monitors out of what `torch.jit.script` compiles."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from initstats.monitoring.hooks import MonitorHook

_RECURSIVE: Any = torch.jit._recursive  # noqa: SLF001
_create = _RECURSIVE.create_script_module
_USERS: set[int] = set()


@functools.wraps(_create)
def _create_without_hooks(nn_module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    with _without_hooks(nn_module):
        return _create(nn_module, *args, **kwargs)


@contextmanager
def _without_hooks(module: nn.Module) -> Iterator[None]:
    """Take the hooks of monitors out of a model, and put them back where they were."""
    taken = []
    for child in module.modules():
        for hooks in (child._forward_hooks, child._forward_pre_hooks):  # noqa: SLF001
            if any(map(_is_ours, hooks.values())):
                taken.append((hooks, dict(hooks)))
                others = {k: h for k, h in hooks.items() if not _is_ours(h)}
                hooks.clear()
                hooks.update(others)
    try:
        yield
    finally:
        for hooks, all_of_them in taken:
            hooks.clear()
            hooks.update(all_of_them)


def _is_ours(hook: Any) -> bool:
    return isinstance(hook, MonitorHook)


def allow_scripting(user: object) -> None:
    """Let `torch.jit.script` take watched models, until `end_scripting`.

    Args:
        user: Who needs it.
    """
    _USERS.add(id(user))
    _RECURSIVE.create_script_module = _create_without_hooks


def end_scripting(user: object) -> None:
    """Leave torch as it was when nobody needs this any more."""
    _USERS.discard(id(user))
    if not _USERS:
        _RECURSIVE.create_script_module = _create
