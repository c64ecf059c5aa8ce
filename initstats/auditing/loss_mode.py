"""Watch the loss functions that a model and its loss call."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from initstats.statistics.compute import stats
from initstats.statistics.record import Stats

_CLASSIFIERS: tuple[Any, ...] = (functional.cross_entropy, functional.nll_loss)
LOSS_NAMES: dict[Any, str] = {
    functional.cross_entropy: "cross_entropy",
    functional.nll_loss: "nll_loss",
    functional.binary_cross_entropy_with_logits: "binary_cross_entropy_with_logits",
    functional.binary_cross_entropy: "binary_cross_entropy",
    functional.mse_loss: "mse_loss",
    functional.l1_loss: "l1_loss",
    functional.smooth_l1_loss: "smooth_l1_loss",
    functional.huber_loss: "huber_loss",
    functional.kl_div: "kl_div",
    functional.poisson_nll_loss: "poisson_nll_loss",
    functional.gaussian_nll_loss: "gaussian_nll_loss",
}
_LOG_SOFTMAX: tuple[Any, ...] = (functional.log_softmax, torch.log_softmax, Tensor.log_softmax)
_PASSING = (
    *("ViewB", "UnsafeView", "ReshapeAlias", "Transpose", "Permute", "TB", "Squeeze", "Unsqueeze"),
    *("Clone", "ToCopy", "Slice", "Select", "Alias", "Expand"),
)
_TAKE_SCORES: tuple[Any, ...] = (
    functional.cross_entropy,
    functional.binary_cross_entropy_with_logits,
)


@dataclass(frozen=True)
class LossCall:
    """One call of a loss function of torch during a forward pass.

    Attributes:
        name: Name of the function.
        reduction: "mean" or "sum".
        classes: Number of classes C of a cross-entropy, else None.
        value: The loss, a scalar tensor; reading it syncs.
        targets: Number of targets that are not ignored, a scalar tensor.
        scores: Record of the input of a cross-entropy, only of the first forward pass.
    """

    name: str
    reduction: str
    classes: int | None
    value: Tensor
    targets: Tensor
    scores: Stats | None


@dataclass(frozen=True)
class LossInputs:
    """What entered a loss function of torch.

    Attributes:
        name: Name of the function.
        shape: Shape of the scores or predictions.
        target_shape: Shape of the targets.
        scores: Record of the scores or predictions.
        target: Record of the targets, None for classes.
        counted: The targets that are not ignored: their number, and the smallest and largest one; a
            target that is a vector counts once, and both are nan where two such vectors differ.
        made_by: Name of the operation that made the scores, without "Backward".
    """

    name: str
    shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    scores: Stats
    target: Stats | None
    counted: tuple[Tensor, Tensor, Tensor]
    made_by: str = ""


class LossWatch(TorchFunctionMode):
    """Context manager that notes the scalar losses a model and its loss compute.

    Args:
        with_scores: Take a record of the input of a cross-entropy.

    Attributes:
        calls: One per call that returns a scalar, in order.
        inputs: What entered every call, whatever it returns; only with scores.
        log_softmaxes: Number of classes of every log_softmax that ran.
    """

    def __init__(self, *, with_scores: bool) -> None:
        super().__init__()
        self.calls: list[LossCall] = []
        self.log_softmaxes: list[int] = []
        self.inputs: list[LossInputs] = []
        self._with_scores = with_scores

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the function, and note it when it is a loss."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = LOSS_NAMES.get(func)
        if name is not None and isinstance(result, Tensor):
            given = inspect.signature(func).bind(*args, **kwargs)
            given.apply_defaults()
            inputs = None
            if self._with_scores:
                inputs = loss_inputs(func, name, given.arguments)
                self.inputs.append(inputs)
            if result.dim() == 0:
                self._note(func, name, given.arguments, result, inputs)
        elif func in _LOG_SOFTMAX:
            dim = kwargs.get("dim", args[1] if len(args) > 1 else -1)
            self.log_softmaxes.append(result.shape[-1 if dim is None else dim])
            x = args[0] if args else kwargs["input"]
            if self._with_scores and x.requires_grad:
                self.inputs.append(log_softmax_inputs(x))
        return result

    def _note(
        self,
        func: Any,
        name: str,
        given: dict[str, Any],
        result: Tensor,
        inputs: LossInputs | None,
    ) -> None:
        """Keep the values of a call that rules read."""
        scores, target = given["input"], given["target"]
        classes = None
        targets = torch.tensor(target.numel())
        if func in _CLASSIFIERS:
            classes = scores.shape[1] if scores.dim() > 1 else scores.shape[0]
            if target.is_floating_point():  # probabilities
                targets = torch.tensor(target.numel() // classes)
            else:
                targets = (target != given["ignore_index"]).sum()
        elif name.startswith("binary"):
            classes = 2
        reduction = given["reduction"]
        if False in (given.get("size_average"), given.get("reduce")):
            reduction = "sum"  # the old way to say so; reduce=False has no scalar result
        record = inputs.scores if inputs is not None and func in _TAKE_SCORES else None
        self.calls.append(
            LossCall(name, reduction, classes, result.detach(), targets.detach(), record)
        )


def loss_inputs(func: Any, name: str, given: dict[str, Any]) -> LossInputs:
    """Record what enters a loss function. Asynchronous.

    Args:
        func: The function.
        name: Its name.
        given: Its arguments by name.

    Returns:
        The records.
    """
    scores, target = given["input"].detach(), given["target"].detach()
    return LossInputs(
        name,
        tuple(scores.shape),
        tuple(target.shape),
        stats(scores, histogram=False),
        stats(target, histogram=False) if target.is_floating_point() else None,
        _counted(func, given, target),
        made_by(given["input"]),
    )


def log_softmax_inputs(scores: Tensor) -> LossInputs:
    """Record scores that a loss by hand takes the log_softmax of. Asynchronous.

    Args:
        scores: The scores.
    """
    shape, nothing = tuple(scores.shape), torch.tensor(torch.nan)
    record = stats(scores.detach(), histogram=False)
    counted = (torch.tensor(0), nothing, nothing)
    return LossInputs("log_softmax", shape, shape, record, None, counted, made_by(scores))


def made_by(tensor: Tensor) -> str:
    """Return the operation that made a tensor, views and copies of it left out.

    Args:
        tensor: The tensor.

    Returns:
        The name that autograd has for it, without "Backward" and its number; "" for a leaf.
    """
    node = tensor.grad_fn
    while node is not None and node.name().startswith(_PASSING):
        node = node.next_functions[0][0] if node.next_functions else None
    return "" if node is None else node.name().partition("Backward")[0]


def _counted(func: Any, given: dict[str, Any], target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return number, minimum and maximum of the targets that are not ignored."""
    if func in _CLASSIFIERS and target.is_floating_point() and target.dim() > 1:  # probabilities
        differ = (target != target[:1]).any()
        value = torch.where(differ, torch.nan, 0.0)
        return torch.tensor(target.numel() // target.shape[1]), value, value
    valid = target if func not in _CLASSIFIERS else target[target != given["ignore_index"]]
    if not valid.numel():
        return torch.tensor(0), torch.tensor(torch.nan), torch.tensor(torch.nan)
    return torch.tensor(valid.numel()), *torch.aminmax(valid)
