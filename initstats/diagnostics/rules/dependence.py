"""Rules on dependence: of examples on each other, of scores on later inputs, of softmax rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from initstats.diagnostics.evidence import Evidence
from initstats.diagnostics.findings import AuditRule, Finding
from initstats.text import number


@dataclass(frozen=True)
class MixedExamples(AuditRule):
    """Outputs of an example that move when other examples of the batch change.

    Measured in eval mode, where batch norms do not mix. Graphs (a square matrix in the batch) are
    left out, and losses whose classes are the examples.

    Attributes:
        share: Largest change, as a share of the largest output, that rounding explains.
    """

    share: float = 2e-4

    id: ClassVar[str] = "mixed-examples"
    source: ClassVar[str] = (
        "Karpathy 2019, A recipe for training neural networks: chart dependencies"
    )

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Judge what the probe measured."""
        found = evidence.dependence
        moved = found.examples
        contrastive = any(call.in_batch for call in evidence.loss.cross_entropies)
        if moved is None or moved <= self.share or contrastive:
            return
        place = found.examples_at or "the model"
        independent = found.second is not None and found.second <= self.share
        why = (
            ". Along the second dimension they do not: if that is the batch, nothing is wrong"
            if independent
            else ""
        )
        yield self.finding(
            "warning",
            place,
            moved,
            self.share,
            cause=f"outputs of examples change by {number(moved)} of their size when other "
            f"examples of the batch change; it begins in {place}{why}",
            fix="check batch_first, the dim of softmax, mean and cat, and view or reshape where a "
            "transpose is meant",
        )


@dataclass(frozen=True)
class FutureInputs(AuditRule):
    """Scores that depend on the inputs they should predict, or targets that are not the next ones.

    Judged where the targets of a loss are an input of the model, some positions ahead: an error
    where scores depend on the inputs that are their targets, and a warning where a model that sees
    nothing later has its inputs for targets, or those two positions ahead. Measured in eval mode.

    Attributes:
        share: Largest change, as a share of the largest score, that rounding explains.
    """

    share: float = 2e-4

    id: ClassVar[str] = "future-inputs"
    source: ClassVar[str] = (
        "Vaswani et al. 2017, section 3.2.3: leftward information flow is masked"
    )

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Judge what the probe measured."""
        found = evidence.dependence
        moved, ahead = found.later, found.ahead
        if moved is None or ahead is None:
            return
        if moved > self.share and ahead > 0:
            inverted = found.earlier is not None and found.earlier <= self.share
            why = (
                "and not when earlier ones do: the mask is inverted"
                if inverted
                else "and these are the targets: the mask is missing"
            )
            yield self.finding(
                "error",
                "loss",
                moved,
                self.share,
                cause=f"the targets are the next positions of {found.later_at}; scores change by "
                f"{number(moved)} of their size when later positions change, {why}",
                fix="mask attention to later positions (is_causal=True), and pad convolutions on "
                "the left only",
            )
        elif moved <= self.share and ahead != 1:
            what = (
                "at the same positions: copying them is right"
                if ahead == 0
                else f"{ahead} positions ahead: they were shifted twice"
            )
            yield self.finding(
                "warning",
                "loss",
                float(ahead),
                1.0,
                cause=f"the targets are {found.later_at} {what}, and the model sees nothing later",
                fix="shift the targets by one position: in the data, or in the model, not in both",
            )


@dataclass(frozen=True)
class SoftmaxAxis(AuditRule):
    """A softmax along another axis than the one that is summed over afterwards.

    Seen where weights are multiplied as matrices (@, bmm, einsum), and where log-probabilities
    enter nll_loss. Weights that are divided after the softmax, as in slot attention, are left out.
    """

    id: ClassVar[str] = "softmax-axis"
    source: ClassVar[str] = "Vaswani et al. 2017, eq. 1: weights of one query add up to 1"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """List the places."""
        for report in evidence.axes[:1]:
            axis = (
                "an axis that is none of its own there"
                if report.axis is None
                else f"dim {report.axis}"
            )
            cause = f"{report.where} adds up to 1 along {axis} of shape {list(report.shape)}"
            if report.summed is None:
                cause += ", which has a single element: all weights are 1"
            else:
                cause += f", but dim {report.summed} is summed over"
            yield self.finding(
                "warning",
                report.where,
                float("nan") if report.axis is None else float(report.axis),
                float("nan") if report.summed is None else float(report.summed),
                cause=cause,
                fix="softmax over the keys of each query, or over the classes: dim=-1 of scores",
                also=tuple(other.where for other in evidence.axes[1:]),
            )
