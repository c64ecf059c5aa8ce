"""How an audit checks a batch, feeds it to a model and finds the loss, and halves of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils.data import DataLoader, Dataset

from initstats.diagnostics.layer_records import floating_tensors
from initstats.diagnostics.nested import map_nested, nested_tensors

LossFunction: TypeAlias = Callable[[Any, Any], Tensor]

_FEWEST_EXAMPLES = 4


def forward_loss(
    model: nn.Module, batch: Any, loss_fn: LossFunction | None, *, function: str = "audit"
) -> Tensor:
    """Run a model on a batch and return the loss.

    Args:
        model: The model.
        batch: A mapping (passed as keywords), a tuple or list (passed in order), or one argument.
        loss_fn: Called with the output and the target: the last item of a tuple or list, which
            the model then does not get; the whole batch otherwise. When None the model computes
            the loss itself: the output, its `loss`, or a scalar tensor in it.
        function: Public function on whose behalf this is done, for messages.

    Returns:
        The loss, a scalar tensor.

    Raises:
        TypeError: If no loss is found, or it is no tensor.
        ValueError: If the loss is not a scalar, or does not depend on any parameter.
    """
    _, loss = forward(model, batch, loss_fn, function=function)
    if not isinstance(loss, Tensor):
        raise TypeError(
            f"initstats.{function}: expected loss_fn to return a tensor, "
            f"got loss={type(loss).__name__}"
        )
    if loss.numel() != 1:
        raise ValueError(
            f"initstats.{function}: expected a scalar loss, got shape={tuple(loss.shape)}; "
            "average it over the batch, or pass loss_fn"
        )
    if not loss.requires_grad:
        raise ValueError(
            f"initstats.{function}: expected a loss that depends on the parameters, "
            "got loss.requires_grad=False; do not detach it or compute it under no_grad"
        )
    return loss


def forward(
    model: nn.Module, batch: Any, loss_fn: LossFunction | None, *, function: str = "audit"
) -> tuple[Any, Any]:
    """Run a model on a batch, and return its output and what is taken for the loss.

    Args:
        model: The model.
        batch: As for `forward_loss`.
        loss_fn: As for `forward_loss`.
        function: As for `forward_loss`.

    Raises:
        TypeError: If no loss is found.
    """
    inputs = inputs_of(batch, loss_fn)
    if isinstance(batch, Mapping):
        output, target = model(**inputs), batch
    elif isinstance(batch, (tuple, list)):
        output, target = model(*inputs), batch[-1]
    else:
        output, target = model(inputs), batch
    return output, loss_fn(output, target) if loss_fn is not None else _own_loss(output, function)


def inputs_of(batch: Any, loss_fn: LossFunction | None) -> Any:
    """Return what the model gets of a batch: all but the last item when that is the target."""
    is_pair = isinstance(batch, (tuple, list)) and loss_fn is not None
    return batch[:-1] if is_pair else batch


def require_batch(batch: Any, *, function: str = "audit") -> None:
    """Refuse anything but one batch of examples.

    Args:
        batch: The batch.
        function: Public function on whose behalf this is checked, for messages.

    Raises:
        TypeError: If it is None, a function, a loader, a dataset or another iterator.
        ValueError: If it is empty, or a tensor of it was made in inference mode or has a graph.
    """
    if batch is None:
        raise TypeError(f"initstats.{function}: expected a batch, got batch=None")
    kind = type(batch).__name__
    if isinstance(batch, (DataLoader, Dataset, Iterator)):
        fix = "next(loader)" if isinstance(batch, Iterator) else "next(iter(loader))"
        raise TypeError(f"initstats.{function}: expected one batch, got batch={kind}; pass {fix}")
    tensors = list(nested_tensors(batch))
    if isinstance(batch, type) or (callable(batch) and not tensors):
        raise TypeError(
            f"initstats.{function}: expected a batch, got batch={kind} "
            f"{getattr(batch, '__name__', '')!r}; call it and pass what it returns"
        )
    sized = isinstance(batch, (Mapping, tuple, list))
    if (sized and not batch) or (tensors and not any(tensor.numel() for tensor in tensors)):
        shapes = [tuple(tensor.shape) for tensor in tensors]
        raise ValueError(
            f"initstats.{function}: expected a batch of at least one example, got batch={kind} "
            f"with shapes {shapes}"
        )
    if any(tensor.is_inference() for tensor in tensors):
        raise ValueError(
            f"initstats.{function}: expected a batch that autograd can use, got an inference "
            "tensor; make the batch outside torch.inference_mode(), or clone it there"
        )
    if any(not tensor.is_leaf for tensor in tensors):
        raise ValueError(
            f"initstats.{function}: expected a batch without a graph, because every step uses it "
            "again, got a tensor with a grad_fn; detach it"
        )


def require_values(model: nn.Module, *, function: str = "audit") -> None:
    """Refuse parameters and buffers without values that can be trained.

    Args:
        model: The model.
        function: Public function on whose behalf this is checked, for messages.

    Raises:
        ValueError: If one is on the meta device, not yet initialised (lazy modules), or was made in
            inference mode.
    """
    held: list[tuple[str, Tensor]] = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in held:
        if isinstance(tensor, (UninitializedParameter, UninitializedBuffer)):
            raise ValueError(  # noqa: TRY004  # it is of the right kind, but not ready
                f"initstats.{function}: expected parameters with shapes, got "
                f"{type(tensor).__name__} {name!r} of a lazy module; run the model on the batch "
                "once before"
            )
        if tensor.device.type == "meta":
            raise ValueError(
                f"initstats.{function}: expected parameters with values, got device=meta for "
                f"{name!r}; call to_empty and init_ first"
            )
        if tensor.is_inference():
            raise ValueError(
                f"initstats.{function}: expected parameters that autograd can use, got inference "
                f"tensor {name!r}; build the model outside torch.inference_mode()"
            )


def require_device(model: nn.Module, batch: Any, *, function: str = "audit") -> None:
    """Refuse a batch that is on another device than the model.

    Args:
        model: The model.
        batch: The batch.
        function: Public function on whose behalf this is checked, for messages.

    Raises:
        ValueError: If the model is on one device and a tensor of the batch on another.
    """
    devices = {parameter.device for parameter in model.parameters()}
    wrong = [tensor.device for tensor in nested_tensors(batch) if tensor.device not in devices]
    if len(devices) == 1 and wrong:
        raise ValueError(
            f"initstats.{function}: expected the batch on the device of the model, "
            f"{devices.pop()}, got device={wrong[0]}; move it with .to()"
        )


def halves(batch: Any) -> tuple[Any, Any] | None:
    """Cut a batch in two, to tell a loss that sums over examples from one that averages.

    Args:
        batch: As for `nested_tensors`; cut along the first dimension of its tensors.

    Returns:
        Both halves; None when the tensors do not share a first dimension, or it is not even or
        shorter than 4.
    """
    sizes = {t.shape[0] if t.dim() else 0 for t in nested_tensors(batch)}
    size = sizes.pop() if len(sizes) == 1 else 0
    if size < _FEWEST_EXAMPLES or size % 2:
        return None

    def part(rows: slice) -> Any:
        # A copy, because a model may change its input in place.
        return map_nested(lambda x: x[rows].clone() if isinstance(x, Tensor) else x, batch)

    return part(slice(0, size // 2)), part(slice(size // 2, size))


def _own_loss(output: Any, function: str) -> Any:
    """Find the loss in the output of a model.

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
            f"initstats.{function}: expected a loss in the output of the model, "
            f"got output={type(output).__name__} without one; pass loss_fn, or targets in the batch"
        )
    return loss
