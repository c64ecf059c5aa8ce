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
_NAMES: dict[Any, str] = {
    functional.cross_entropy: "cross_entropy",
    functional.nll_loss: "nll_loss",
    functional.binary_cross_entropy_with_logits: "binary_cross_entropy_with_logits",
    functional.binary_cross_entropy: "binary_cross_entropy",
    functional.mse_loss: "mse_loss",
    functional.l1_loss: "l1_loss",
    functional.smooth_l1_loss: "smooth_l1_loss",
    functional.huber_loss: "huber_loss",
    functional.kl_div: "kl_div",
}
_LOG_SOFTMAX: tuple[Any, ...] = (functional.log_softmax, torch.log_softmax, Tensor.log_softmax)
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


class LossWatch(TorchFunctionMode):
    """Context manager that notes the scalar losses a model and its loss compute.

    Args:
        with_scores: Take a record of the input of a cross-entropy.

    Attributes:
        calls: One per call, in order.
        log_softmaxes: Number of classes of every log_softmax that ran.
    """

    def __init__(self, *, with_scores: bool) -> None:
        super().__init__()
        self.calls: list[LossCall] = []
        self.log_softmaxes: list[int] = []
        self._with_scores = with_scores

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the function, and note it when it is a loss."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = _NAMES.get(func)
        if name is not None and isinstance(result, Tensor) and result.dim() == 0:
            self._note(func, name, args, kwargs, result)
        elif func in _LOG_SOFTMAX:
            dim = kwargs.get("dim", args[1] if len(args) > 1 else -1)
            self.log_softmaxes.append(result.shape[-1 if dim is None else dim])
        return result

    def _note(
        self, func: Any, name: str, args: tuple[Any, ...], kwargs: Any, result: Tensor
    ) -> None:
        """Keep the values of a call that rules read."""
        given = inspect.signature(func).bind(*args, **kwargs)
        given.apply_defaults()
        scores, target = given.arguments["input"], given.arguments["target"]
        classes = None
        targets = torch.tensor(target.numel())
        if func in _CLASSIFIERS:
            classes = scores.shape[1] if scores.dim() > 1 else scores.shape[0]
            if target.is_floating_point():  # probabilities
                targets = torch.tensor(target.numel() // classes)
            else:
                targets = (target != given.arguments["ignore_index"]).sum()
        elif name.startswith("binary"):
            classes = 2
        reduction = given.arguments["reduction"]
        if False in (given.arguments["size_average"], given.arguments["reduce"]):
            reduction = "sum"  # the old way to say so; reduce=False has no scalar result
        record = None
        if self._with_scores and func in _TAKE_SCORES:
            record = stats(scores.detach(), histogram=False)
        self.calls.append(
            LossCall(name, reduction, classes, result.detach(), targets.detach(), record)
        )
