"""Faults in loss, optimizer and precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from zoo.injecting import (
    Fault,
    as_type,
    combined,
    everywhere,
    fault,
    judged_by,
    own_loss,
    stepping,
)
from zoo.specimens import Specimen

RATE = "update-ratio loss-trajectory lost-update"


def _summed(output: Any, y: Tensor) -> Tensor:
    return cross_entropy(output, y, reduction="sum")


def _unreduced(output: Any, y: Tensor) -> Tensor:
    return cross_entropy(output, y, reduction="none").sum()


def _squared(output: Any, y: Tensor) -> Tensor:
    return functional.mse_loss(output, y, reduction="sum")


def _squared_by_hand(output: Any, x: Tensor) -> Tensor:
    return ((output[0] - x) ** 2).sum()


def _softmax_twice(output: Any, y: Tensor) -> Tensor:
    return cross_entropy(output.softmax(-1), y)


def _sigmoid_twice(output: Any, y: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(output.sigmoid(), y)


def _sigmoid_squared(output: Any, y: Tensor) -> Tensor:
    """The error of saturated sigmoids."""
    return functional.mse_loss((100 * output).sigmoid(), functional.one_hot(y, 10).float())


def _negated(output: Any, y: Tensor) -> Tensor:
    return -cross_entropy(output, y)


def _negative_likelihood(output: Any, y: Tensor) -> Tensor:
    """The log likelihood, where the negative one was meant."""
    return output.log_softmax(-1).gather(1, y.view(-1, 1)).mean()


def _raw_scores(output: Any, y: Tensor) -> Tensor:
    """Scores where log-probabilities are expected."""
    return functional.nll_loss(output, y)


def _only_head(specimen: Specimen) -> Specimen:
    """An optimizer that was made before the backbone was attached."""
    head = list(specimen.model.parameters())[-2:]

    def make(_parameters: list[nn.Parameter]) -> Optimizer:
        return torch.optim.AdamW(head, 1e-3)

    return specimen.but(optimizer=make)


def _decayed(specimen: Specimen) -> Specimen:
    def make(parameters: list[nn.Parameter]) -> Optimizer:
        return torch.optim.AdamW(parameters, 1e-3, weight_decay=500.0)

    return specimen.but(optimizer=make)


TRAINING_FAULTS: tuple[Fault, ...] = (
    fault("loss with the wrong sign", "mlp_relu", judged_by(_negated), "loss-sign", "loss"),
    fault(
        "likelihood maximised the wrong way",
        "lenet",
        judged_by(_negative_likelihood),
        "loss-sign",
        "loss",
    ),
    fault("loss with the wrong sign", "gpt2", own_loss(torch.neg), "loss-sign", "loss"),
    fault("maximize", "resnet18", stepping(maximize=True), "loss-sign loss-trajectory"),
    fault("SUM cross-entropy", "resnet18", judged_by(_summed), "loss-reduction", "loss"),
    fault("SUM of losses", "mlp_gelu", judged_by(_unreduced), "loss-reduction", "loss"),
    fault("SUM of squares", "dit", judged_by(_squared), "loss-reduction", "loss"),
    fault("SUM by hand", "autoencoder", judged_by(_squared_by_hand), "loss-reduction", "loss"),
    fault(
        "SUM of losses, rate 0.05",
        "unet",
        combined(judged_by(_summed), stepping(name="sgd", rate=0.05)),
        "loss-reduction",
        "loss",
    ),
    fault(
        "softmax twice",
        "mlp_relu",
        judged_by(_softmax_twice),
        "double-softmax initial-loss loss-trajectory activation-std saturated-units",
    ),
    fault(
        "softmax twice",
        "vgg",
        judged_by(_softmax_twice),
        "double-softmax initial-loss loss-trajectory activation-std saturated-units",
    ),
    fault(
        "sigmoid twice",
        "ranking",
        judged_by(_sigmoid_twice),
        "double-softmax initial-loss loss-trajectory activation-std saturated-units",
    ),
    fault(
        "squared error of saturated sigmoids",
        "mlp_relu",
        judged_by(_sigmoid_squared),
        "saturated-units loss-trajectory",
    ),
    fault(
        "scores in place of log-probabilities",
        "mlp_relu",
        judged_by(_raw_scores),
        "double-softmax initial-loss loss-sign",
    ),
    fault("rate of 1", "gpt2", stepping(rate=1.0), RATE),
    fault("rate of 100", "resnet18", stepping(rate=100.0), "loss-trajectory"),
    fault("rate of 0.3", "vit", stepping(rate=0.3), RATE),
    fault("rate of 1e-9", "gpt2", stepping(rate=1e-9), RATE),
    fault("rate of 1e-9", "mlp_relu", stepping(name="sgd", rate=1e-9), RATE),
    fault("rate of 0", "lenet", stepping(rate=0.0), RATE),
    fault("weight decay of 500", "mlp_relu", _decayed, RATE),
    fault(
        "updates round away",
        "gpt2_bfloat16",
        stepping(rate=1e-5),
        "lost-update",
    ),
    fault(
        "updates round away",
        "mlp_relu",
        combined(as_type(torch.bfloat16), stepping(rate=1e-4)),
        "lost-update",
    ),
    fault(
        "gradients underflow in float16",
        "mlp_relu",
        combined(as_type(torch.float16), judged_by(lambda x, y: cross_entropy(x, y) * 1e-4)),
        "underflow zero-gradient",
    ),
    fault(
        "activations overflow in float16",
        "mlp_relu",
        combined(everywhere(lambda p: p.mul_(30)), as_type(torch.float16)),
        "not-finite",
        "2 4 6 8 10 12",
    ),
    fault("optimizer of the head alone", "mlp_relu", _only_head, "optimizer-parameters"),
)
