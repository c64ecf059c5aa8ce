"""Unwrap DDP and torch.compile; leave no_grad and inference mode."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

if TYPE_CHECKING:
    from typing_extensions import Self

_PARALLEL = (DataParallel, DistributedDataParallel)


def unwrapped(model: nn.Module) -> nn.Module:
    """Take DataParallel, DistributedDataParallel and torch.compile off a model.

    Args:
        model: Any module.

    Returns:
        The module inside, the module itself when it is none of these.
    """
    while True:
        own_name = "module" if isinstance(model, _PARALLEL) else "_orig_mod"
        inside = getattr(model, own_name, None)
        if not isinstance(inside, nn.Module):
            return model
        model = inside


class Training:
    """Context manager in which a model can be trained and watched, whatever surrounds it.

    Gradients are on, inference mode is off, nothing runs compiled (hooks that are set after
    compilation do not run), and casts that an autocast around it keeps are forgotten at both ends,
    because the weights they were made of change.
    """

    def __enter__(self) -> Self:
        torch.clear_autocast_cache()
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(mode=False))  # turns gradients on as well
            if "torch._dynamo" in sys.modules:  # else nothing is compiled, and importing it is slow
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
        torch.clear_autocast_cache()
