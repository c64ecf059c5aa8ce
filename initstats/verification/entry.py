"""One parameter, or one piece of it, measured against its promise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from initstats.verification.confidence import Band


@dataclass(frozen=True)
class VerifyEntry:
    """One parameter, or one piece of a packed one, measured against its promise.

    Attributes:
        name: Name of the parameter, with the label of the piece in brackets if there are several.
        rule: Label of the rule that takes it.
        distribution: What the rule promises, as text.
        count: Number of elements, a padding row left out.
        mean: Measured mean.
        std: Measured standard deviation.
        expected_mean: Promised mean.
        expected_std: Promised standard deviation.
        mean_band: Where the measured mean may lie.
        std_band: Where the measured standard deviation may lie.
        problem: What is wrong in words, empty when nothing is.
        kind: The kind of problem: "not finite", "constant", "bounds", "std", "mean", "shape",
            "extremes", "orthogonal", "values", "norms", "padding", "zero rows", "zero columns",
            "zero slices", "equal rows", "equal columns", "equal slices", "copies", "zeros",
            "buffers", "duplicate", "shards", "tied" or "replicas"; empty when there is none.
        cause: The likely cause of the problem.
        fix: What to do about it.
    """

    name: str
    rule: str
    distribution: str
    count: int
    mean: float
    std: float
    expected_mean: float
    expected_std: float
    mean_band: Band
    std_band: Band
    problem: str = ""
    kind: str = ""
    cause: str = ""
    fix: str = ""

    @property
    def ok(self) -> bool:
        """True when the parameter keeps its promise."""
        return not self.problem

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as JSON-able values."""
        values = dict(self.__dict__)
        values["mean_band"] = [self.mean_band.low, self.mean_band.high]
        values["std_band"] = [self.std_band.low, self.std_band.high]
        return values
