"""Evidence of an audit: measurements of layers, parameters and losses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from initstats.diagnostics.dataflow import (
    AxisReport,
    BatchReport,
    DependenceReport,
    LossInputReport,
    NormCall,
    NormMode,
    TableReport,
)
from initstats.diagnostics.depth import Series
from initstats.diagnostics.unit_records import UnitRecords
from initstats.diagnostics.weight_rows import RowReport
from initstats.statistics.record import Stats, merged
from initstats.verification.verifier import VerifyReport


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
        last_gradient: Record of its gradient in the last step, None with one step or none.
        dtype: Its type, without "torch.".
        role: Its role in the model, one of `initstats.recipes.ROLES`.
        layer: Path of the module that owns it.
        block: Index of its block in the outermost stack, None outside.
        is_bias: True for a vector that is called so.
        fan_in: Number of inputs of one output, 0 for a vector.
        fan_out: Number of outputs of one input, 0 for a vector.
        rows: How its rows differ, None for a vector.
        copy_of: Name of an earlier parameter with the same values, or empty.
        held: True when the optimizer holds it.
    """

    name: str
    shape: tuple[int, ...]
    weight: Stats
    expected_std: float | None
    gradient: Stats | None
    update: Stats | None
    trained: bool
    last_gradient: Stats | None = None
    dtype: str = ""
    role: str = "other"
    layer: str = ""
    block: int | None = None
    is_bias: bool = False
    fan_in: float = 0.0
    fan_out: float = 0.0
    rows: RowReport | None = None
    copy_of: str = ""
    held: bool = True

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

    @property
    def gain(self) -> float:
        """Gain, std of the weight * sqrt(fan_in): the factor on the rms of its input."""
        return self.weight.std * math.sqrt(self.fan_in)


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
        input: Record of its first floating-point input over all calls, None without one.
        units: Records of the units of its output, one for every module that made an input.
        producers: Modules that made its inputs; "" for one that no module made.
        from_batch: True when a tensor of the batch enters it as it is.
        is_function: True for a non-linearity that a module calls as a function.
        dtype: Type of the output, without "torch.".
        carried: How much of the input of a block is in its output, None for other modules.
        logits: Attention logits, None elsewhere.
        is_gate: True when other activations are multiplied by its output, or by a non-linearity of
            it.
        epsilon: What a norm adds to the variance, None elsewhere.
    """

    name: str
    kind: str
    is_block: bool
    activation: Stats
    output_gradient: Stats | None
    calls: int
    parameters: tuple[ParameterReport, ...]
    input: Stats | None = None
    units: tuple[UnitRecords, ...] = ()
    producers: tuple[str, ...] = ()
    from_batch: bool = False
    is_function: bool = False
    dtype: str = ""
    carried: Carried | None = None
    logits: LogitReport | None = None
    is_gate: bool = False
    epsilon: float | None = None

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
class Carried:
    """How much of the input x of a block is in its output y: 1, the input, for a residual path.

    Both without the means of their units.

    Attributes:
        slope: (x, y) / (x, x): 1 for y = x + f(x) whatever the size of f, 0 without a residual.
        cosine: (x, y) / (|x| |y|).
        noise: Standard error of the slope, |y| / (|x| sqrt(n)), for n independent elements.
    """

    slope: float
    cosine: float
    noise: float = 0.0


@dataclass(frozen=True)
class LogitReport:
    """How peaked an attention is.

    Attributes:
        std: Std of the logits of independent queries and keys, None when only weights are seen.
        peak: Mean over rows of the sum of squared weights: 1 when each looks at a single place;
            None when only queries and keys are seen.
        normalised: True when queries and keys have an rms of 1, as norms return them.
    """

    std: float | None
    peak: float | None
    normalised: bool = False


@dataclass(frozen=True)
class LossCallReport:
    """One call of a loss function of torch in the first forward pass.

    Attributes:
        name: Name of the function.
        reduction: "mean" or "sum".
        classes: Number of classes of a cross-entropy, else None.
        value: The loss.
        targets: Number of targets.
        scores: Record of what entered a cross-entropy, else None.
    """

    name: str
    reduction: str
    classes: int | None
    value: float
    targets: int
    scores: Stats | None = field(compare=False)


@dataclass(frozen=True)
class CrossEntropyReport:
    """A cross-entropy in the first forward pass, and the loss of a uniform guess.

    Attributes:
        classes: Number of classes, C >= 1.
        value: The loss, in nats.
        in_batch: True when the classes are the examples of the batch (contrastive losses).
    """

    classes: int
    value: float
    in_batch: bool = False

    @property
    def uniform(self) -> float:
        """Loss of a uniform guess, ln C, in nats."""
        return math.log(self.classes)


@dataclass(frozen=True)
class LossReport:
    """The losses of the first steps.

    Attributes:
        values: Loss before each step, in the unit of the loss.
        cross_entropies: The cross-entropies of the first forward pass that average.
        calls: All loss functions of torch that ran in the first forward pass.
        by_step: Values of the cross-entropy by step when there is one per step, else empty.
        halves: Loss of the batch and of its two halves after the steps, or empty.
        maximised: True when the optimizer climbs.
        log_softmaxes: Number of classes of every log_softmax of the first forward pass.
    """

    values: tuple[float, ...]
    cross_entropies: tuple[CrossEntropyReport, ...]
    calls: tuple[LossCallReport, ...] = ()
    by_step: tuple[float, ...] = ()
    halves: tuple[float, ...] = ()
    maximised: bool = False
    log_softmaxes: tuple[int, ...] = ()

    @property
    def expected(self) -> float | None:
        """Ln C of the one cross-entropy, in nats; None when there is none or several."""
        calls = self.cross_entropies
        return calls[0].uniform if len(calls) == 1 else None


@dataclass(frozen=True, eq=False)
class Evidence:
    """All measurements that the rules of an audit read.

    Attributes:
        layers: By name, in the order in which the modules first finished.
        parameters: By name, in the order of the model.
        loss: The losses.
        series: Layers by depth.
        normalised: True when the model holds normalisation layers.
        verification: Weights against the recipe, None without a recipe.
        stacks: Names and classes of the modules inside each block, by path of the block, by class
            of the blocks (by path of the stack where they are plain containers).
        idle: Modules that were not called.
        strangers: Number of tensors of the optimizer that are no parameters of the model.
        batch: The examples of the batch.
        loss_inputs: What entered the loss functions of torch in the first forward pass.
        axes: Softmaxes over a wrong axis.
        norm_modes: Norms that do not use or keep statistics of the batch, by name.
        norm_calls: Norms whose epsilon drowns the variance of their input, by name.
        unregistered: What the loss depends on and that is no parameter of the model.
        tables: Tables of vectors that were read, by name.
        dependence: Which outputs depend on which inputs.
    """

    layers: Mapping[str, LayerReport]
    parameters: Mapping[str, ParameterReport]
    loss: LossReport
    series: tuple[Series, ...] = ()
    normalised: bool = False
    verification: VerifyReport | None = field(default=None)
    stacks: Mapping[str, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)
    idle: frozenset[str] = frozenset()
    strangers: int = 0
    batch: BatchReport = field(default_factory=BatchReport)
    loss_inputs: tuple[LossInputReport, ...] = ()
    axes: tuple[AxisReport, ...] = ()
    norm_modes: Mapping[str, NormMode] = field(default_factory=dict)
    norm_calls: Mapping[str, NormCall] = field(default_factory=dict)
    unregistered: tuple[str, ...] = ()
    tables: Mapping[str, TableReport] = field(default_factory=dict)
    dependence: DependenceReport = field(default_factory=DependenceReport)
