"""Records of the batch, of what enters the loss, and of which outputs depend on which inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from initstats.statistics.record import Stats

# "eval": it normalises with running statistics that nothing has filled; "forgets": it never
# updates them.
NormMode: TypeAlias = Literal["eval", "forgets"]


@dataclass(frozen=True)
class AxisReport:
    """A softmax over another axis than the one that is summed over afterwards.

    Attributes:
        where: The softmax, or the operation that sums.
        shape: Shape of the tensor there.
        axis: Dimension that adds up to 1, None where a view has joined it with others.
        summed: Dimension that is summed over; None for an axis of length 1.
    """

    where: str
    shape: tuple[int, ...]
    axis: int | None
    summed: int | None


@dataclass(frozen=True)
class NormCall:
    """A normalisation with an epsilon that no published model has.

    Attributes:
        epsilon: What it adds to the variance.
        variance: Mean of the variances that it divides by.
    """

    epsilon: float
    variance: float

    @property
    def output(self) -> float:
        """Rms of what it returns, before gains."""
        return math.sqrt(self.variance / (self.variance + self.epsilon))


@dataclass(frozen=True)
class TableReport:
    """The rows of a table of vectors that the first forward pass reads.

    Attributes:
        rows: Number of rows.
        count: Number of reads.
        first: Smallest row that is read.
        last: Largest one.
    """

    rows: int
    count: int
    first: int
    last: int


@dataclass(frozen=True)
class BatchReport:
    """The examples of the batch.

    Attributes:
        examples: Number of examples; 0 when the tensors of the inputs do not share one.
        alike: True when the inputs of all examples are equal.
        targets: Number of targets, 0 where the batch holds none apart from the inputs.
        target: The one value of all of them, None where they differ.
    """

    examples: int = 0
    alike: bool = False
    targets: int = 0
    target: float | None = None


@dataclass(frozen=True)
class LossInputReport:
    """What enters a loss function of torch in the first forward pass.

    Attributes:
        name: Name of the function.
        shape: Shape of the scores or predictions.
        target_shape: Shape of the targets.
        targets: Number of targets that count.
        alike: True when all targets are equal.
        value: That target, nan where they differ or a target is a vector.
        scores: Record of the scores or predictions, without histogram.
        target: Record of the targets, without histogram; None for classes.
        made_by: Name of the operation that made the scores, as autograd calls it, without
            "Backward"; empty where there is none.
    """

    name: str
    shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    targets: int
    alike: bool
    value: float
    scores: Stats | None = field(default=None, compare=False)
    target: Stats | None = field(default=None, compare=False)
    made_by: str = ""

    @property
    def joint_shape(self) -> tuple[int, ...]:
        """Shape that broadcasting gives; the shape itself where both are equal."""
        pairs = max(len(self.shape), len(self.target_shape))
        sizes = ((1,) * (pairs - len(s)) + s for s in (self.shape, self.target_shape))
        return tuple(max(a, b) if min(a, b) else 0 for a, b in zip(*sizes, strict=True))

    @property
    def is_outer(self) -> bool:
        """True when broadcasting compares every prediction with targets of other examples."""
        largest = max(math.prod(self.shape), math.prod(self.target_shape))
        return math.prod(self.joint_shape) > largest


@dataclass(frozen=True)
class DependenceReport:
    """Which outputs move when other inputs change; measured after the steps, in eval mode.

    Shares are largest change / largest output, None where nothing could be measured.

    Attributes:
        examples: Change of the outputs of examples that stay, when the others are replaced.
        examples_at: First module whose output for them changes.
        second: The same along the second dimension of the inputs, which may be the batch.
        later: Change of scores when later positions of the inputs change.
        earlier: Change of later scores when earlier positions change.
        later_at: Input that was changed.
        ahead: How many positions the targets are ahead of that input; None where they are not it.
    """

    examples: float | None = None
    examples_at: str = ""
    second: float | None = None
    later: float | None = None
    earlier: float | None = None
    later_at: str = ""
    ahead: int | None = None
