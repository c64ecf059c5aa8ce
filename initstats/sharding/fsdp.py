"""FSDP2's own bookkeeping of a model whose parameters were replaced."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from torch import nn

_FSDP2 = "torch.distributed.fsdp._fully_shard._fsdp_state"


def reset_sharded_parameters(model: nn.Module) -> None:
    """Let every module that `fully_shard` took look up its parameters, as after `Module.to_empty`.

    Shards of uneven length are padded there, so their local tensors are others afterwards.
    """
    for parameter in _managed(model):
        parameter.reset_sharded_param()


def _managed(model: nn.Module) -> Iterator[Any]:
    """Yield FSDP2's records of the parameters of a model."""
    if _FSDP2 not in sys.modules:
        return
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            state: Any = module._get_fsdp_state()  # noqa: SLF001  # there is no public way to ask
            groups = getattr(state, "_fsdp_param_groups", None)
            if groups is None:  # one per module in older versions
                groups = [getattr(state, "_fsdp_param_group", None)]
            for group in groups:
                yield from getattr(group, "fsdp_params", ())
