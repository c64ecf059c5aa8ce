"""Verify the weights of a model against a recipe, within sampling bands."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from initstats.planning.planner import Plan, plan
from initstats.recipes import Recipe
from initstats.recipes.distributions.composite import Kept
from initstats.recipes.stages import Depth, Names
from initstats.sharding import Domain, is_dtensor, local_boxes, local_tensor
from initstats.statistics.compute import DTYPES, stats
from initstats.statistics.record import Stats
from initstats.text import nearest, number, plain_table, render, render_html
from initstats.verification.block_values import Blocks, BlockValues
from initstats.verification.buffers import buffer_problems, is_mask
from initstats.verification.checks import Judge, not_finite
from initstats.verification.confidence import Band
from initstats.verification.cross_checks import relations
from initstats.verification.entry import VerifyEntry
from initstats.verification.explanation import AUTO, Candidate, best_candidates
from initstats.verification.replica_checks import differing_replicas, with_replicas
from initstats.verification.values import Values
from initstats.verification.whole_values import WholeValues

__all__ = ["VerifyEntry", "VerifyReport", "compare", "verify"]

VERIFY_SCHEMA = "initstats.verify/1"
FALSE_ALARM_RATE = 1e-4
# Mean (two-sided), std (two-sided), shape, and four of the extremes; those of two sides share one.
_CHECKS_PER_PIECE = 7
_SHOWN_CANDIDATES = 5
# Equal values make a sample smaller than it looks: what sampling bands say is explained by them.
_EXPLAINING = frozenset(
    {
        *("duplicate", "shards", "zero rows", "zero columns", "zero slices"),
        *("equal rows", "equal columns", "equal slices", "copies"),
    }
)
_SAMPLED = frozenset({"std", "mean", "shape", "extremes", "zeros"})
KINDS = (
    "not finite",
    "constant",
    "bounds",
    "std",
    "mean",
    "shape",
    "extremes",
    "orthogonal",
    "values",
    "norms",
    "padding",
    "zero rows",
    "zero columns",
    "zero slices",
    "duplicate",
    "shards",
    "equal rows",
    "equal columns",
    "equal slices",
    "copies",
    "zeros",
    "buffers",
    "tied",
    "replicas",
)


@dataclass(frozen=True, eq=False)
class VerifyReport:
    """Measurements against the recipe, for every parameter that a rule matches.

    Attributes:
        recipe: Name of the recipe.
        entries: One per parameter, or per piece of a packed one, in the order of the model.
        unmatched: Names of parameters that no rule takes.
        false_alarm_rate: Chance that a correctly initialised model fails anywhere.
        candidates: With recipe "auto": the recipes that were compared, the best first.
    """

    recipe: str
    entries: tuple[VerifyEntry, ...]
    unmatched: tuple[str, ...]
    false_alarm_rate: float
    candidates: tuple[Candidate, ...] = ()

    @property
    def failures(self) -> tuple[VerifyEntry, ...]:
        """The entries that break their promise."""
        return tuple(entry for entry in self.entries if not entry.ok)

    @property
    def ok(self) -> bool:
        """True when every entry keeps its promise."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-able values, with the schema's name and version."""
        return {
            "schema": VERIFY_SCHEMA,
            "recipe": self.recipe,
            "ok": self.ok,
            "false_alarm_rate": self.false_alarm_rate,
            "parameters": [entry.to_dict() for entry in self.entries],
            "unmatched": list(self.unmatched),
            **(
                {"candidates": [dataclasses.asdict(each) for each in self.candidates]}
                if self.candidates
                else {}
            ),
        }

    def table(self, *, failures_only: bool = False) -> Table:
        """Return a table of the entries.

        Args:
            failures_only: Leave out the entries that keep their promise.

        Returns:
            A rich table.
        """
        table = plain_table(
            f"recipe {self.recipe}: {len(self.failures)} of {len(self.entries)} parameters "
            "break their promise",
            caption=self._caption(),
        )
        table.add_column("parameter", overflow="fold", min_width=24)
        table.add_column("promised", overflow="fold", min_width=10)
        for column in ("std", "mean"):
            table.add_column(column, justify="right", no_wrap=True, min_width=8)
        table.add_column("verdict", overflow="fold")
        for e in self.failures if failures_only else self.entries:
            verdict = Text(e.problem or "ok", style="red" if e.problem else "green")
            if e.cause:
                verdict.append(f"\n{e.cause}; {e.fix}", style="dim")
            cells = (number(value) for value in (e.std, e.mean))
            table.add_row(Text(e.name), Text(e.distribution), *cells, verdict)
        return table

    def _caption(self) -> str:
        """Return what stands below the table."""
        lines = [f"chance of a false alarm in a correct model: {self.false_alarm_rate:g}"]
        if self.candidates:
            shown = self.candidates[:_SHOWN_CANDIDATES]
            words = ", ".join(f"{each.recipe} {each.explained:.1%}" for each in shown)
            lines.append(f"elements that recipes explain: {words}")
        return "\n".join(lines)

    def __rich__(self) -> Table:
        return self.table()

    def _repr_html_(self) -> str:
        return render_html(self)

    def __str__(self) -> str:
        return render(self)


def verify(
    model: nn.Module,
    recipe: Recipe | str,
    *,
    false_alarm_rate: float = FALSE_ALARM_RATE,
    allow_unmatched: bool = False,
    roles: Mapping[str, str] | None = None,
    names: Names | None = None,
    depth: Depth | None = None,
    ignore: Collection[str] = (),
) -> VerifyReport:
    """Measure the weights of a model against a recipe, whoever initialised them. Writes nothing.

    All parameters are read once, in one statistics call; those that transformers marked as loaded
    are left out. Mean, standard deviation, extremes and the histogram must lie in bands that
    sampling alone leaves with probability `false_alarm_rate` for the whole model (Bonferroni over
    all checks: `initstats.verification.confidence`, `shape_tests`). Constants, bounds, finite
    values, padding rows and orthogonality must hold exactly, up to rounding. Fingerprints tell
    parameters with the same values apart from different ones; rows of zeros, equal shards and ties
    between blocks are found too, and so are values that are not finite in buffers and in parameters
    that no rule takes, running statistics and rotary frequencies with which no model can start, and
    blocks of zeros. Blocks of values that were copied are found, transposed and with other signs
    too, but not scaled: of parameters in memory, and of large ones as far as samples show. Each
    problem comes with a likely cause and a fix.

    Collective if the model has DTensors: every rank of its widest mesh calls it and gets the same
    report. Values are those of the first replica; parameters whose replicas differ are named with
    the ranks that do.

    Args:
        model: Any module with values, so not on the meta device.
        recipe: A recipe, the name of one in `initstats.recipes.available()`, or "auto" for the one
            that explains most elements, with its default numbers or a variant's; what it does not
            take is listed, and `candidates` of the report names the others. Not for DTensors.
        false_alarm_rate: Chance, in (0, 1), that a correctly initialised model fails.
        allow_unmatched: List parameters that no rule takes, instead of refusing.
        roles: As in `plan`.
        names: As in `plan`.
        depth: As in `plan`.
        ignore: Kinds of problems that are none here, such as {"tied"} for shared blocks.

    Returns:
        The report.

    Raises:
        TypeError: If `model` or `recipe` is of another kind.
        ValueError: If `plan` refuses the model, a parameter is taken by no rule, a rule takes no
            parameter, the model is on the meta device, `false_alarm_rate` is outside (0, 1), or a
            kind in `ignore` does not exist.

    Determinism: as the records of `initstats.stats`.
    """
    if recipe == AUTO:
        how: dict[str, Any] = {"roles": roles, "names": names, "depth": depth}

        def judge(name: str) -> VerifyReport:
            return verify(
                model,
                name,
                false_alarm_rate=false_alarm_rate,
                allow_unmatched=True,
                ignore=ignore,
                **how,
            )

        report, found = best_candidates(model, _records(model), judge, **how)
        return dataclasses.replace(report, recipe=found[0].recipe, candidates=found)
    planned = plan(model, recipe, roles=roles, names=names, depth=depth)
    planned.require_complete("verify", allow_unmatched=allow_unmatched)
    if not 0 < false_alarm_rate < 1:
        raise ValueError(
            "initstats.verify: expected false_alarm_rate in (0, 1), "
            f"got false_alarm_rate={false_alarm_rate}"
        )
    unknown = sorted(set(ignore) - set(KINDS))
    if unknown:
        raise ValueError(
            f"initstats.verify: expected ignore among {', '.join(KINDS)}, got ignore={unknown}"
            f"{nearest(unknown[0], KINDS)}"
        )
    parameters = [entry.parameter for entry in planned] + list(planned.rest.values())
    domain = Domain.of("verify", parameters)
    if domain is not None:
        domain.settle(parameters)
    blocks = None if domain is None else _local_blocks(domain)
    report = _verify(model, planned, false_alarm_rate, ignore, blocks, domain)
    if domain is None or "replicas" in ignore:
        return report
    named = {**{entry.name: entry.parameter for entry in planned}, **planned.rest}
    differing = differing_replicas("verify", named, domain)
    return dataclasses.replace(report, entries=with_replicas(report.entries, differing))


def verify_blocks(
    model: nn.Module, recipe: Recipe | str, blocks: Blocks, *, allow_unmatched: bool = False
) -> VerifyReport:
    """Measure parameters that are read in blocks: `verify` of what does not fit into memory.

    Args:
        model: A model on the meta device with the names, shapes and dtypes of the parameters.
        recipe: As in `verify`.
        blocks: Returns the blocks of a parameter by its name, and where they lie.
        allow_unmatched: As in `verify`.

    Returns:
        The report.

    Raises:
        TypeError: As `verify`.
        ValueError: As `verify`, or what `blocks` raises.
    """
    if recipe == AUTO:
        records = {
            name: _merged(blocks(name, parameter))
            for name, parameter in model.named_parameters()
            if parameter.is_floating_point()
        }
        judge = functools.partial(verify_blocks, model, blocks=blocks, allow_unmatched=True)
        report, found = best_candidates(model, records, judge)
        return dataclasses.replace(report, recipe=found[0].recipe, candidates=found)
    planned = plan(model, recipe)
    planned.require_complete("verify", allow_unmatched=allow_unmatched)
    return _verify(model, planned, FALSE_ALARM_RATE, (), blocks, None)


def _records(model: nn.Module) -> dict[str, Stats]:
    """Return the records of the floating-point parameters of a model that "auto" can judge."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            "initstats.verify: expected model to be a torch.nn.Module, "
            f"got model={type(model).__name__}"
        )
    named = {name: x for name, x in model.named_parameters() if x.is_floating_point()}
    wrong = next((name for name, x in named.items() if is_dtensor(x) or x.is_meta), None)
    if wrong is not None:
        where = "on the meta device" if named[wrong].is_meta else "a DTensor"
        raise ValueError(
            "initstats.verify: expected parameters with all their values in this process for "
            f"recipe='auto', got {wrong} {where}; give the recipe"
        )
    return dict(stats({name: x.detach() for name, x in named.items()}, histogram=False))


def _merged(blocks: Iterable[tuple[Tensor, Sequence[int]]]) -> Stats:
    """Return the record of a parameter from its blocks."""
    records = [stats(block, histogram=False) for block, _ in blocks]
    return functools.reduce(Stats.merge, records)


def _local_blocks(domain: Domain) -> Blocks:
    """Return what gives the blocks that this rank contributes."""

    def blocks(_name: str, tensor: Tensor) -> Iterator[tuple[Tensor, Sequence[int]]]:
        if not domain.owns(tensor):
            return
        if not is_dtensor(tensor):
            yield tensor.detach(), (0,) * tensor.dim()
            return
        local = local_tensor(tensor)
        for slices, box in local_boxes("verify", tensor):
            yield local[slices], box.offset

    return blocks


def _verify(
    model: nn.Module,
    planned: Plan,
    false_alarm_rate: float,
    ignore: Collection[str],
    blocks: Blocks | None,
    domain: Domain | None,
) -> VerifyReport:
    """Measure what a plan promises, from whole tensors or from blocks of them."""
    promised = [entry for entry in planned if not entry.keep]
    stored = blocks is not None and domain is None
    on_meta = next((entry.name for entry in promised if entry.parameter.is_meta), None)
    if on_meta is not None and not stored:
        raise ValueError(
            f"initstats.verify: expected parameters with values, got {on_meta} on the meta device; "
            "call init_ with a device first"
        )
    rest = _without_promise(model, planned, stored=stored)
    values: Values
    if blocks is None:
        pieces = [piece for entry in promised for piece in entry.pieces]
        pieces += [entry.padding for entry in promised if entry.padding is not None]
        tensors = {piece.name: piece.tensor for piece in pieces}
        others = {f"{name}@rest": tensor for name, tensor in rest.items()}
        table, values = stats({**tensors, **others}, fingerprint=True), WholeValues()
    else:
        named = {f"{name}@rest": (name, tensor) for name, tensor in rest.items()}
        values = BlockValues(promised, named, blocks, domain)
        table = values.table
    records = {name: table[name] for name in table if not name.endswith("@rest")}
    report = compare(planned, records, false_alarm_rate, values=values, ignore=ignore)
    buffers = {name for name, _ in model.named_buffers()}
    lost = [
        _not_finite(name, table[f"{name}@rest"])
        for name, tensor in rest.items()
        if not (name in buffers and is_mask(name, tensor, table[f"{name}@rest"]))
    ]
    found = [*(entry for entry in lost if entry is not None), *buffer_problems(model, planned)]
    return dataclasses.replace(
        report, entries=(*report.entries, *(entry for entry in found if entry.kind not in ignore))
    )


def _without_promise(model: nn.Module, planned: Plan, *, stored: bool) -> dict[str, Tensor]:
    """Return the parameters and buffers with values that no rule promises anything of.

    Those of floating-point numbers, and complex ones as real ones with one more dimension.
    """
    kept = ((entry.name, entry.parameter) for entry in planned if entry.keep)
    promised = {id(entry.parameter) for entry in planned if not entry.keep}
    buffers = ((name, x) for name, x in model.named_buffers() if id(x) not in promised)
    named = itertools.chain(kept, planned.rest.items(), buffers)
    known = (
        (name, _real(tensor.detach()))
        for name, tensor in named
        if type(tensor) in {Tensor, nn.Parameter} or is_dtensor(tensor)
    )
    return {
        name: tensor
        for name, tensor in known
        if (type(tensor) in {Tensor, nn.Parameter} or is_dtensor(tensor))
        and tensor.layout is torch.strided
        and tensor.dtype in DTYPES
        and tensor.is_floating_point()
        and tensor.is_meta == stored
    }


def _real(tensor: Tensor) -> Tensor:
    """Return a complex tensor as pairs of real numbers, and any other as it is."""
    is_pair = tensor.is_complex() and not is_dtensor(tensor) and tensor.layout is torch.strided
    return torch.view_as_real(tensor.resolve_conj()) if is_pair else tensor


def _not_finite(name: str, record: Stats) -> VerifyEntry | None:
    """Return an entry for a tensor without a promise whose values are not finite, else nothing."""
    words, cause = not_finite(record)
    if not words:
        return None
    any_value = Band(-math.inf, math.inf)
    return VerifyEntry(
        name=name,
        rule="none",
        distribution="finite",
        count=record.count,
        mean=record.mean,
        std=record.std,
        expected_mean=math.nan,
        expected_std=math.nan,
        mean_band=any_value,
        std_band=any_value,
        problem=words,
        kind="not finite",
        cause=cause.cause,
        fix=cause.fix,
    )


def compare(
    planned: Plan,
    records: Mapping[str, Stats],
    false_alarm_rate: float = FALSE_ALARM_RATE,
    *,
    values: Values | None = None,
    ignore: Collection[str] = (),
) -> VerifyReport:
    """Compare records that were already taken with a plan.

    Args:
        planned: What each parameter should be.
        records: Records of the pieces of the plan, by name; a piece without one is left out.
        false_alarm_rate: Chance, in (0, 1), that a correctly initialised model fails.
        values: Where the measured values may be looked at again. The records have fingerprints
            then, and those of padding rows are there.
        ignore: Kinds of problems that are none here.

    Returns:
        The report.
    """
    promised = [e for e in planned if not e.keep and not isinstance(e.distribution, Kept)]
    pieces = [(entry, piece) for entry in promised for piece in entry.pieces]
    rate = false_alarm_rate / max(1, _CHECKS_PER_PIECE * len(pieces))
    stds = ((entry.rule, piece.distribution.std) for entry, piece in pieces)
    promises = {(label, std) for label, std in stds if math.isfinite(std)}
    z = NormalDist().inv_cdf(1 - rate / 2)
    judge = Judge(rate, z, sorted(promises), values)
    verdicts = {
        piece.name: judge.entry(entry, piece, records[piece.name])
        for entry, piece in pieces
        if piece.name in records
    }
    for name, kind, problem, cause, fix in relations(promised, records, values):
        at = name if name in verdicts else next(n for n in verdicts if n.startswith(f"{name}["))
        explains = verdicts[at].ok or (kind in _EXPLAINING and verdicts[at].kind in _SAMPLED)
        if explains and kind not in ignore:
            verdicts[at] = dataclasses.replace(
                verdicts[at], problem=problem, kind=kind, cause=cause, fix=fix
            )
    entries = tuple(
        dataclasses.replace(v, problem="", kind="", cause="", fix="") if v.kind in ignore else v
        for v in verdicts.values()
    )
    return VerifyReport(planned.recipe.name, entries, planned.unmatched, false_alarm_rate)
