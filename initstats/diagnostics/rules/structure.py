"""Rules on structure: residual paths, blocks unlike their siblings, untrained parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from initstats.diagnostics.evidence import Carried, Evidence, ParameterReport
from initstats.diagnostics.findings import AuditRule, Finding
from initstats.text import number


@dataclass(frozen=True)
class ResidualPath(AuditRule):
    """Blocks of a stack that do not pass their input on, unlike their siblings.

    For y = x + f(x) the slope (x, y) / (x, x) is near 1, however large f is; a post-norm scales it,
    but keeps the cosine of x and y, both without the means of units. A block has neither when its
    residual path is missing. When no block of a stack has one, it is a finding only where attention
    is inside, because no published transformer leaves it out.

    Attributes:
        slope: Slope, at least 0, above which the input is found in the output.
        cosine: Cosine above which it is found.
        noise: Standard error of the slope above which nothing is found.
        multiple: Slope above which a block multiplies its input.
        rms: Rms of the output that it must have as well.
        most: Share of blocks above which a negative cosine alone tells that they subtract.
        fewest: Number of blocks below which it does not.
    """

    slope: float = 0.5
    cosine: float = 0.15
    noise: float = 0.1
    multiple: float = 5.0
    rms: float = 3.0
    most: float = 0.8
    fewest: int = 4

    id: ClassVar[str] = "residual-path"
    source: ClassVar[str] = "He et al. 2016, Identity mappings, eq. 4: x_(l+1) = x_l + F(x_l)"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Compare the blocks of every stack."""
        for stack, blocks in evidence.stacks.items():
            layers = (evidence.layers.get(name) for name in blocks)
            carried = {x.name: x.carried for x in layers if x is not None and x.carried is not None}
            lost = [name for name, value in carried.items() if not self._passes(value)]
            yield from self._multiplied(evidence, carried)
            flipped = self._flipped(carried)
            if flipped:
                yield self._subtracted(carried, flipped)
                continue
            if not lost or len(carried) < 2:  # noqa: PLR2004  # nothing to compare with
                continue
            attends = any("ttention" in kind for kind in blocks[lost[0]].values())
            alone = len(lost) <= len(carried) / 2
            if not alone and not (attends and len(lost) == len(carried)):
                continue
            value = carried[lost[0]]
            others = (
                f"{len(carried) - len(lost)} other blocks of {stack or 'the model'} pass it on"
                if alone
                else "no block of the stack passes it on"
            )
            yield self.finding(
                "error" if alone else "warning",
                lost[0],
                value.slope,
                self.slope,
                cause=f"the output of {lost[0]} holds {number(value.slope)} of its input (cosine "
                f"{number(value.cosine)}); {others}",
                fix="add the input of the block to its output: x = x + f(x)",
                also=tuple(lost[1:]),
            )

    def _multiplied(self, evidence: Evidence, carried: Mapping[str, Carried]) -> Iterator[Finding]:
        """Find blocks that multiply their input: a post-norm does, and returns an rms near 1."""
        big = {
            name: value.slope
            for name, value in carried.items()
            if value.slope > self.multiple and evidence.layers[name].activation.rms > self.rms
        }
        if big and len(big) <= len(carried) / 2:
            where = max(big, key=lambda name: big[name])
            yield self.finding(
                "error",
                where,
                big[where],
                self.multiple,
                cause=f"{where} returns its input times {number(big[where])}; "
                f"{len(carried) - len(big)} other blocks do not",
                fix="add the branch to the input, and scale the branch, not the sum",
                also=tuple(name for name in big if name != where),
            )

    def _subtracted(self, carried: Mapping[str, Carried], flipped: list[str]) -> Finding:
        """Report blocks that subtract their input from what they make of it."""
        value = carried[flipped[0]]
        return self.finding(
            "error",
            flipped[0],
            value.slope,
            -self.slope,
            cause=f"the output of {flipped[0]} holds its input times {number(value.slope)}, and so "
            f"do {len(flipped) - 1} of {len(carried) - 1} other blocks: the input is subtracted",
            fix="add the input of the block to its output: x = x + f(x)",
            also=tuple(flipped[1:]),
        )

    def _flipped(self, carried: Mapping[str, Carried]) -> list[str]:
        """Return the blocks that hold their input with the other sign, when most do.

        Behind a rectifier little of it is left: then nearly all must do so.
        """
        found = [
            name
            for name, x in carried.items()
            if x.cosine < -self.cosine and not self._is_unclear(x)
        ]
        clear = [name for name in found if carried[name].slope < -self.slope]
        if len(clear) > len(carried) / 2:
            return clear
        most = len(carried) >= self.fewest and len(found) > self.most * len(carried)
        return found if most else []

    def _is_unclear(self, value: Carried) -> bool:
        """Tell whether too few values were seen."""
        return value.noise > self.noise

    def _passes(self, value: Carried) -> bool:
        """Tell whether the input is found in the output, with its sign."""
        found = value.cosine > self.cosine or value.slope > self.slope
        return found or self._is_unclear(value)


@dataclass(frozen=True)
class BlockStructure(AuditRule):
    """A block that lacks a norm or a non-linearity of its siblings, or is frozen among them.

    Attributes:
        share: Largest share of blocks that may be called odd ones.
    """

    share: float = 0.34

    id: ClassVar[str] = "block-structure"
    source: ClassVar[str] = "blocks of a stack are built by one function in every published model"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Compare modules and trained parameters block by block."""
        for blocks in evidence.stacks.values():
            yield from self._odd_modules(evidence, blocks)
            yield from self._frozen(evidence, list(blocks))

    def _odd_modules(
        self, evidence: Evidence, blocks: Mapping[str, Mapping[str, str]]
    ) -> Iterator[Finding]:
        """Find norms and non-linearities that most blocks have and run, and few do not."""
        ran = {
            block: {
                name: "an idle " + kind if f"{block}.{name}" in evidence.idle else kind
                for name, kind in modules.items()
            }
            for block, modules in blocks.items()
        }
        names = dict.fromkeys(name for modules in ran.values() for name in modules)
        usual = {
            name: Counter(m.get(name, "nothing") for m in ran.values()).most_common(1)[0]
            for name in names
        }
        stacks: dict[str, list[str]] = {}
        for block in blocks:
            stacks.setdefault(block.rpartition(".")[0], []).append(block)
        ends = {block for stack in stacks.values() for block in (stack[0], stack[-1])}
        factor = Counter(_factor(evidence, block) for block in blocks).most_common(1)[0][0]
        odd: dict[str, list[str]] = {}
        for block, modules in ran.items():
            differs = [n for n in names if modules.get(n, "nothing") != usual[n][0]]
            if _factor(evidence, block) != factor:
                continue  # it widens or samples down: no norm on the identity path of a RepVGG
            # Of another make (it widens, or samples down) when more than this differs; the last
            # non-linearity often comes after the sum.
            if all("Norm" in usual[n][0] for n in differs) or (
                all(_is_non_linear(usual[n][0]) for n in differs) and block not in ends
            ):
                for name in differs:
                    odd.setdefault(name, []).append(block)
        for name, where in odd.items():
            kind, times = usual[name]
            if len(where) > self.share * len(blocks) or times <= len(blocks) / 2:
                continue
            starts = [stack[0] for stack in stacks.values()]
            if "Norm" in kind and all(_starts_normalised(evidence, b, starts) for b in where):
                continue
            yield self.finding(
                "error" if "Norm" in kind and not set(where) <= set(starts) else "warning",
                f"{where[0]}.{name}" if name in blocks[where[0]] else where[0],
                float(len(where)),
                0.0,
                cause=f"{where[0]} has {ran[where[0]].get(name, 'nothing')} where {times} sibling "
                f"blocks have {kind} ({name})",
                fix="build every block of the stack alike",
                also=tuple(where),
            )

    def _frozen(self, evidence: Evidence, blocks: list[str]) -> Iterator[Finding]:
        """Find frozen blocks behind trained ones: a frozen beginning is fine-tuning."""
        known = []
        for block in blocks:
            inside = [p for p in evidence.parameters.values() if p.name.startswith(f"{block}.")]
            if inside:
                known.append((block, any(p.trained for p in inside)))
        first = next((i for i, (_, flag) in enumerate(known) if flag), len(known))
        frozen = [block for block, flag in known[first:] if not flag]
        if frozen and len(frozen) <= self.share * len(known):
            yield self.finding(
                "warning",
                frozen[0],
                float(len(frozen)),
                0.0,
                cause=f"no parameter of {frozen[0]} requires a gradient, while blocks before it "
                "are trained",
                fix="requires_grad_(True), unless this is meant",
                also=tuple(frozen[1:]),
            )


@dataclass(frozen=True)
class MissingGradient(AuditRule):
    """Parameters that should be trained and that no gradient reaches."""

    id: ClassVar[str] = "missing-gradient"
    source: ClassVar[str] = "untrained weight of TheDeepChecker"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Find trained parameters without a gradient."""
        lost = [p.name for p in evidence.parameters.values() if p.trained and p.gradient is None]
        if lost:
            yield self.finding(
                "warning",
                lost[0],
                float(len(lost)),
                0.0,
                cause=f"no loss depends on {len(lost)} of {len(evidence.parameters)} parameters",
                fix="use them, freeze them with requires_grad_(False), or remove them",
                also=tuple(lost[1:]),
            )


@dataclass(frozen=True)
class ZeroGradient(AuditRule):
    """Weights whose gradient is exactly 0 in the first step and still in the last.

    A gradient of 0 in the first step alone is usual: behind a head, a gate or an adapter that
    starts at 0 gradients arrive in the second or third step. Hence nothing is judged after fewer.

    Attributes:
        share: Share of the parameters of a model above which this is an error.
        steps: Number of steps below which nothing is judged.
    """

    share: float = 0.1
    steps: int = 3

    id: ClassVar[str] = "zero-gradient"
    source: ClassVar[str] = "AutoTrainer monitor.py: share of zero gradients; two zero factors"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Find weights that nothing trains."""
        if len(evidence.loss.values) < self.steps:
            return
        trained = [p for p in evidence.parameters.values() if p.trained and p.gradient is not None]
        stuck = [p for p in trained if _all_zero(p)]
        if not stuck:
            return
        matrices = [p for p in stuck if p.is_matrix]
        # The first constant weight is the likely cause: where it is 0, nothing passes.
        source = next((p for p in stuck if p.is_matrix and p.weight.abs_max == 0), stuck[0])
        zeros = sum(1 for p in matrices if p.weight.abs_max == 0)
        why = f"; {zeros} of them are 0 themselves" if zeros else ""
        severe = bool(matrices) and len(stuck) > self.share * len(trained)
        yield self.finding(
            "error" if severe or zeros else "warning",
            source.name,
            float(len(stuck)),
            0.0,
            cause=f"{len(stuck)} of {len(trained)} parameters get a gradient of exactly 0 in the "
            f"first and in the last step{why}",
            fix="give the weights on their way random values: of two factors in a row one may "
            "start at 0, not both",
            also=tuple(p.name for p in stuck if p is not source),
        )


def _all_zero(parameter: ParameterReport) -> bool:
    """Tell whether all gradients that were recorded are exactly 0."""
    records = [r for r in (parameter.gradient, parameter.last_gradient) if r is not None]
    return all(record.zero == record.count for record in records)


def _is_non_linear(kind: str) -> bool:
    """Tell a non-linearity by its class name."""
    kind = kind.lower().removesuffix("activation")
    return kind in {"relu", "relu6", "gelu", "silu", "tanh", "sigmoid", "elu", "leakyrelu", "mish"}


def _starts_normalised(evidence: Evidence, block: str, starts: list[str]) -> bool:
    """Tell whether a norm makes the input of a block that begins a stack, as in ModernBERT."""
    layer = evidence.layers.get(block)
    makers = [] if layer is None else [evidence.layers.get(name) for name in layer.producers]
    return (
        block in starts
        and bool(makers)
        and all(maker is not None and "Norm" in maker.kind for maker in makers)
    )


def _factor(evidence: Evidence, block: str) -> float:
    """Return number of outputs / number of inputs of a block."""
    layer = evidence.layers.get(block)
    if layer is None or layer.input is None or not layer.input.count:
        return 1.0
    return layer.activation.count / layer.input.count
