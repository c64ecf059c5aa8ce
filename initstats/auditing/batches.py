"""How an audit feeds a batch to a model, and where it finds the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch import Tensor, nn

from initstats.auditing.flows import floating_tensors

LossFunction: TypeAlias = Callable[[Any, Any], Tensor]


def forward_loss(model: nn.Module, batch: Any, loss_fn: LossFunction | None) -> Tensor:
    """Run a model on a batch and return the loss.

    Args:
        model: The model.
        batch: A mapping (passed as keywords), a tuple or list (passed in order), or one argument.
        loss_fn: Called with the output and the target: the last item of a tuple or list, which
            the model then does not get; the whole batch otherwise. When None the model computes
            the loss itself: the output, its `loss`, or a scalar tensor in it.

    Returns:
        The loss, a scalar tensor.

    Raises:
        TypeError: If no loss is found, or it is no tensor.
        ValueError: If the loss is not a scalar, or does not depend on any parameter.
    """
    if isinstance(batch, Mapping):
        output = model(**batch)
        target: Any = batch
    elif isinstance(batch, (tuple, list)):
        inputs, target = (batch[:-1], batch[-1]) if loss_fn is not None else (batch, None)
        output = model(*inputs)
    else:
        output, target = model(batch), batch
    loss = loss_fn(output, target) if loss_fn is not None else _own_loss(output)
    if not isinstance(loss, Tensor):
        raise TypeError(
            f"initstats.audit: expected loss_fn to return a tensor, got loss={type(loss).__name__}"
        )
    if loss.numel() != 1:
        raise ValueError(
            f"initstats.audit: expected a scalar loss, got shape={tuple(loss.shape)}; "
            "average it over the batch, or pass loss_fn"
        )
    if not loss.requires_grad:
        raise ValueError(
            "initstats.audit: expected a loss that depends on the parameters, "
            "got loss.requires_grad=False; do not detach it or compute it under no_grad"
        )
    return loss


def require_device(model: nn.Module, batch: Any) -> None:
    """Refuse a batch that is on another device than the model.

    Args:
        model: The model.
        batch: The batch.

    Raises:
        ValueError: If the model is on one device and a tensor of the batch on another, or the
            model is on the meta device.
    """
    devices = {parameter.device for parameter in model.parameters()}
    if any(device.type == "meta" for device in devices):
        raise ValueError(
            "initstats.audit: expected parameters with values, got device=meta; "
            "call to_empty and init_ first"
        )
    wrong = [tensor.device for tensor in _tensors(batch) if tensor.device not in devices]
    if len(devices) == 1 and wrong:
        raise ValueError(
            f"initstats.audit: expected the batch on the device of the model, {devices.pop()}, "
            f"got device={wrong[0]}; move it with .to()"
        )


def _own_loss(output: Any) -> Any:
    """Find the loss in what a model returned.

    Raises:
        TypeError: If there is none.
    """
    loss = getattr(output, "loss", None)
    if loss is None and isinstance(output, Mapping):
        loss = output.get("loss")
    if loss is None:
        loss = next((t for t in floating_tensors(output) if t.dim() == 0), None)
    if loss is None and isinstance(output, Tensor):
        loss = output
    if loss is None:
        raise TypeError(
            "initstats.audit: expected a loss in the output of the model, "
            f"got output={type(output).__name__} without one; pass loss_fn, or targets in the batch"
        )
    return loss


def _tensors(value: Any) -> list[Tensor]:
    """Return the tensors of a nested batch."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []
