"""What an audit measured, before anything is judged: layers, parameters and losses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from initstats.auditing.collecting import merged
from initstats.auditing.depth import Series
from initstats.record import Stats
from initstats.verifying import VerifyReport


@dataclass(frozen=True, eq=False)
class ParameterReport:
    """Records of one parameter.

    Attributes:
        name: Name of the parameter.
        shape: Its shape.
        weight: Record of its values before the first step.
        expected_std: Standard deviation that the recipe promises, None without a recipe.
        gradient: Record of its first gradient, None when no gradient arrived.
        update: Record of the change by the first optimizer step, None when it is not trained.
        trained: True when it requires a gradient.
    """

    name: str
    shape: tuple[int, ...]
    weight: Stats
    expected_std: float | None
    gradient: Stats | None
    update: Stats | None
    trained: bool

    @property
    def is_matrix(self) -> bool:
        """True when more than one dimension is longer than 1."""
        return math.prod(self.shape) > max(self.shape, default=1)

    @property
    def update_ratio(self) -> float | None:
        """Rms of the first update / rms of the weights; None without an update or at weight 0."""
        if self.update is None or not self.weight.rms > 0:
            return None
        return float(self.update.rms / self.weight.rms)


@dataclass(frozen=True, eq=False)
class LayerReport:
    """Records of one module, in the first forward and backward pass.

    Attributes:
        name: Name of the module.
        kind: Name of its class.
        is_block: True for a block of a stack.
        activation: Record of its output over all calls.
        output_gradient: Record of the gradient of its output, None when none arrived.
        calls: How often it was called.
        parameters: Its own parameters; for a block all parameters inside.
    """

    name: str
    kind: str
    is_block: bool
    activation: Stats
    output_gradient: Stats | None
    calls: int
    parameters: tuple[ParameterReport, ...]

    @property
    def matrix(self) -> ParameterReport | None:
        """The first weight matrix of its own, None for a block or a layer without one."""
        own = () if self.is_block else self.parameters
        return next((parameter for parameter in own if parameter.is_matrix), None)

    @property
    def zero_share(self) -> float:
        """Share of outputs that are exactly 0."""
        return self.activation.zero / self.activation.count if self.activation.count else 0.0

    @property
    def weight_gradient(self) -> Stats | None:
        """Record of the gradients of its parameters together."""
        return merged([p.gradient for p in self.parameters if p.gradient is not None])


@dataclass(frozen=True)
class CrossEntropyReport:
    """A cross-entropy in the first forward pass: its value, and what a uniform guess costs.

    Attributes:
        classes: Number of classes, C >= 1.
        value: The loss, in nats.
    """

    classes: int
    value: float

    @property
    def uniform(self) -> float:
        """Loss of a uniform guess, ln C, in nats."""
        return math.log(self.classes)


@dataclass(frozen=True)
class LossReport:
    """The losses of the first steps.

    Attributes:
        values: Loss before each step, in the unit of the loss.
        cross_entropies: The cross-entropies of the first forward pass.
    """

    values: tuple[float, ...]
    cross_entropies: tuple[CrossEntropyReport, ...]

    @property
    def expected(self) -> float | None:
        """Ln C of the one cross-entropy, in nats; None when there is none or several."""
        calls = self.cross_entropies
        return calls[0].uniform if len(calls) == 1 else None


@dataclass(frozen=True, eq=False)
class Evidence:
    """Everything that the rules of an audit look at.

    Attributes:
        layers: By name, in the order in which the modules first finished.
        parameters: By name, in the order of the model.
        loss: The losses.
        series: Layers by depth.
        normalised: True when the model holds normalisation layers.
        verification: Weights against the recipe, None without a recipe.
    """

    layers: Mapping[str, LayerReport]
    parameters: Mapping[str, ParameterReport]
    loss: LossReport
    series: tuple[Series, ...] = ()
    normalised: bool = False
    verification: VerifyReport | None = field(default=None)
