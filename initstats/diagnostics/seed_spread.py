"""Initialisation lottery: spread of a model's start over seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median, stdev
from typing import Any

FIRST_LOSS, LAST_LOSS = "first loss", "last loss"
LISTED_SEEDS = 6
_FEWEST = 2  # values that have a spread


@dataclass(frozen=True)
class SeedResult:
    """Start of the model of one seed.

    Attributes:
        seed: The seed.
        first_loss: Loss before the first step.
        last_loss: Loss before the last step.
        activations: Rms of the output of each block (or layer, where there are no blocks), by name.
        gradients: Rms of the gradient of that output, 0 when none arrived.
        errors: Number of findings that are errors.
        warnings: Number of findings that are warnings.
    """

    seed: int
    first_loss: float
    last_loss: float
    activations: dict[str, float]
    gradients: dict[str, float]
    errors: int
    warnings: int


@dataclass(frozen=True)
class Spread:
    """One number over the seeds.

    Attributes:
        values: The number, by seed.
    """

    values: tuple[float, ...]

    @property
    def lost(self) -> int:
        """How many are 0, NaN or infinite."""
        return sum(not math.isfinite(value) or value == 0 for value in self.values)

    @property
    def std(self) -> float | None:
        """Standard deviation of the finite ones; None below two."""
        finite = [value for value in self.values if math.isfinite(value)]
        return stdev(finite) if len(finite) >= _FEWEST else None

    @property
    def log_std(self) -> float | None:
        """Standard deviation of ln of the positive ones; None below two, or if one is negative."""
        logs = [math.log(value) for value in self.values if math.isfinite(value) and value > 0]
        negative = any(value < 0 for value in self.values)
        return None if negative or len(logs) < _FEWEST else stdev(logs)

    def summary(self) -> tuple[float, float, float, float | None]:
        """Return min, median, max of the values that are no NaN, and the std of ln."""
        known = [value for value in self.values if not math.isnan(value)] or [math.nan]
        return min(known), median(known), max(known), self.log_std


@dataclass(frozen=True)
class Lottery:
    """The same audit with the weights of several seeds.

    Attributes:
        seeds: One result per seed, in the order of the seeds; at least two.
    """

    seeds: tuple[SeedResult, ...]

    @property
    def spreads(self) -> dict[str, Spread]:
        """Every measured number over the seeds, by name."""
        spreads = {
            FIRST_LOSS: Spread(tuple(result.first_loss for result in self.seeds)),
            LAST_LOSS: Spread(tuple(result.last_loss for result in self.seeds)),
        }
        for layer, spread in self._by_layer("activations").items():
            spreads[f"output rms of {layer}"] = spread
        for layer, spread in self._by_layer("gradients").items():
            spreads[f"gradient rms of {layer}"] = spread
        return spreads

    @property
    def activations(self) -> dict[str, Spread]:
        """Rms of the outputs over the seeds, by block or layer."""
        return self._by_layer("activations")

    @property
    def gradients(self) -> dict[str, Spread]:
        """Rms of the gradients of the outputs over the seeds, by block or layer."""
        return self._by_layer("gradients")

    def to_dict(self) -> dict[str, Any]:
        """Return results and spreads as JSON-able values; numbers may be NaN or infinite."""
        names = ("min", "median", "max", "log_std")
        return {
            "seeds": [dict(vars(result)) for result in self.seeds],
            "spread": {
                name: dict(zip(names, spread.summary(), strict=True))
                for name, spread in self.spreads.items()
            },
        }

    def _by_layer(self, what: str) -> dict[str, Spread]:
        """Return the spreads of the layers that ran with every seed."""
        measured: list[dict[str, float]] = [getattr(result, what) for result in self.seeds]
        names = [name for name in measured[0] if all(name in values for values in measured)]
        return {name: Spread(tuple(values[name] for values in measured)) for name in names}
