"""Receipts of `init_`: data to reproduce the same weights and to check them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import nn

from initstats.init.keys import key_of
from initstats.planning.entry import Piece, PlanEntry
from initstats.planning.sources import require_fitting
from initstats.planning.validate import require_own_memory
from initstats.planning.write import fill_entries
from initstats.recipes import Constant, Derived
from initstats.recipes.distributions.json import distribution_from_dict, distribution_to_dict
from initstats.recipes.parameters import Slot, slots
from initstats.recipes.stages import Names
from initstats.sharding import Box, Domain, is_dtensor, is_held, reshard
from initstats.statistics.blocks import records_of_blocks
from initstats.statistics.compute import stats
from initstats.statistics.record_array import Groups
from initstats.statistics.table import StatsTable
from initstats.text import block_pattern, literal, plain_table, render, render_html
from initstats.untrusted import read_json

RECEIPT_SCHEMA = "initstats.receipt/1"
_ANY = Constant(0.0)  # of a piece that is not filled
# Fields of an entry that are read without asking, and what they are.
_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("name", "key_name", "dtype", "role", "rule", "why", "distribution"), str),
    **dict.fromkeys(("shape", "tied_to", "also_matched"), list),
    "count": int,
    "keep": bool,
    "fill": (dict, type(None)),
}


@dataclass(frozen=True, eq=False)
class Receipt:
    """A record of `init_`, sufficient to reproduce the weights and to check them.

    Attributes:
        recipe: Name of the recipe.
        source: Where its numbers come from.
        seed: The seed of every key.
        versions: Versions of torch and initstats that ran it.
        entries: What was planned for each parameter, by name, JSON-able but for fingerprints.
        buffers: Names of the buffers that were set.
        unmatched: Names of parameters that no rule took.
    """

    recipe: str
    source: str
    seed: int
    versions: Mapping[str, str]
    entries: Mapping[str, dict[str, Any]]
    buffers: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()
    _fingerprints: StatsTable | LocalPrints | Mapping[str, int] | None = field(
        default=None, repr=False
    )

    @property
    def fingerprints(self) -> dict[str, int]:
        """The 64-bit fingerprint of each parameter as `init_` wrote it; empty if none was taken.

        Raises:
            ValueError: If they are those of this rank's shards: see `all_merge`.
        """
        if isinstance(self._fingerprints, LocalPrints):
            raise ValueError(  # noqa: TRY004  # the kind is right, the totals are missing
                "initstats.Receipt: expected fingerprints of whole parameters, got those of this "
                "rank's shards; call receipt = receipt.all_merge() on every rank first"
            )
        taken = self._fingerprints or {}
        return {n: v if isinstance(v, int) else v.fingerprint for n, v in taken.items()}

    def all_merge(self) -> Receipt:
        """Return the receipt with the fingerprints of whole parameters, the same on every rank.

        Collective: every rank of the model's widest mesh calls it. `init_` itself sends nothing, so
        that it leaves the fingerprints of the rank's shards. Of a model without shards the receipt
        is returned as it is.
        """
        if not isinstance(self._fingerprints, LocalPrints):
            return self
        return dataclasses.replace(self, _fingerprints=self._fingerprints.merged())

    def to_dict(self) -> dict[str, Any]:
        """Return the receipt as JSON-able values, with the schema's name and version."""
        prints = self.fingerprints
        parameters = []
        for name, entry in self.entries.items():
            key = f"{key_of(self.seed, entry['key_name']):016x}"
            mark = f"{prints[name]:016x}" if name in prints else None
            parameters.append({**entry, "key": key, "fingerprint": mark})
        return {
            "schema": RECEIPT_SCHEMA,
            "recipe": self.recipe,
            "source": self.source,
            "seed": self.seed,
            "versions": dict(self.versions),
            "parameters": parameters,
            "buffers": list(self.buffers),
            "unmatched": list(self.unmatched),
        }

    @classmethod
    def from_dict(cls, values: object) -> Receipt:
        """Make a receipt from the values of `to_dict`.

        Args:
            values: The values.

        Returns:
            The receipt.

        Raises:
            ValueError: If the schema is another one.
        """
        schema = values.get("schema") if isinstance(values, Mapping) else None
        if not isinstance(values, Mapping) or schema != RECEIPT_SCHEMA:
            raise ValueError(
                f"initstats.Receipt: expected schema {RECEIPT_SCHEMA!r}, got schema={schema!r}"
            )
        try:
            return cls._of_fields(values)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"initstats.Receipt: expected the fields of {RECEIPT_SCHEMA!r}, got "
                f"{type(error).__name__}: {error}"
            ) from error

    @classmethod
    def _of_fields(cls, values: Mapping[str, Any]) -> Receipt:
        entries = {entry["name"]: _checked(entry) for entry in values["parameters"]}
        prints = {
            name: int(entry["fingerprint"], 16)
            for name, entry in entries.items()
            if entry["fingerprint"]
        }
        for entry in entries.values():
            del entry["key"], entry["fingerprint"]
        return cls(
            recipe=values["recipe"],
            source=values["source"],
            seed=values["seed"],
            versions=dict(values["versions"]),
            entries=entries,
            buffers=tuple(values["buffers"]),
            unmatched=tuple(values["unmatched"]),
            _fingerprints=prints,
        )

    def save(self, path: str | Path) -> None:
        """Write the receipt as JSON.

        Args:
            path: The file.
        """
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Receipt:
        """Read a receipt that `save` wrote.

        Args:
            path: The file.

        Returns:
            The receipt.

        Raises:
            ValueError: If it is no JSON, or the schema is another one.
        """
        return cls.from_dict(read_json(Path(path), "Receipt.load"))

    def remake_(self, model: nn.Module, *, names: Names | None = None) -> None:
        """Write the weights of this receipt again. No recipe is needed.

        Args:
            model: A model with the parameters of the receipt, on any device but meta; wrappers such
                as torch.compile's do not matter.
            names: As in `plan`, for a part of the model.

        Raises:
            ValueError: If a parameter is missing, has another shape or dtype, or is on the meta
                device. Nothing has been written then.

        Determinism: bitwise, as `init_`.
        """
        bound = [
            bound for bound in self._bind("remake_", model, names).values() if bound is not None
        ]
        fill_entries("remake_", bound, self.seed)

    def check(self, model: nn.Module, *, names: Names | None = None) -> dict[str, str]:
        """Compare a model with the weights that `init_` wrote, by fingerprints.

        Tells replicas that differ, weights that were changed or initialised again since, and
        parameters that are missing. Collective if the model has DTensors: every rank of its widest
        mesh calls it and gets the same answer, also where one replica alone differs.

        Args:
            model: The model, on any device.
            names: As in `plan`, for a part of the model.

        Returns:
            What differs in words, by name; empty if every bit of every parameter is the same.

        Raises:
            ValueError: If the receipt has no fingerprints, or a parameter has another shape or
                dtype, or is on the meta device.

        Determinism: bitwise; orthogonal matrices of more than 128 rows or columns run_to_run, so
            that another machine may give other bits.
        """
        if not self._fingerprints:
            raise ValueError(
                "initstats.Receipt.check: expected a receipt with fingerprints, got none; "
                "call init_ with fingerprints=True"
            )
        prints = self.all_merge().fingerprints
        bound = self._bind("check", model, names, allow_missing=True)
        found = {name: entry.parameter for name, entry in bound.items() if entry}
        taken = fingerprints_of("check", found)
        if isinstance(taken, LocalPrints):
            wrong = taken.differing(prints)
        else:
            wrong = {n for n, record in taken.items() if record.fingerprint != prints.get(n)}
        problems = {}
        for name in prints:
            if name not in found:
                problems[name] = "not in the model"
            elif name in wrong:
                problems[name] = f"other values than seed {self.seed} of recipe {self.recipe} gives"
        return problems

    def _bind(
        self,
        function: str,
        model: nn.Module,
        names: Names | None,
        *,
        allow_missing: bool = False,
    ) -> dict[str, PlanEntry | None]:
        """Find the parameters of the receipt in a model."""
        reshard(model)
        groups = slots(model, names=names, function=f"Receipt.{function}", buffers=True)
        groups = [g for g in groups if not g[0].is_buffer or self._holds(g)]
        require_own_memory(f"Receipt.{function}", groups)
        by_key = {slot.key_name: slot for group in groups for slot in group}
        bound: dict[str, PlanEntry | None] = {}
        for name, entry in self.entries.items():
            slot = by_key.get(entry["key_name"])
            if slot is None:
                if not allow_missing:
                    raise ValueError(
                        f"initstats.Receipt.{function}: expected a model with {name}, got none"
                    )
                bound[name] = None
                continue
            bound[name] = _entry_of(function, entry, slot, by_key)
        return bound

    def _holds(self, group: Sequence[Slot]) -> bool:
        """Tell whether the receipt has an entry for one of the names."""
        known = {entry["key_name"] for entry in self.entries.values()}
        return any(slot.key_name in known for slot in group)

    def __rich__(self) -> Table:
        title = f"initialised by recipe {self.recipe}, seed {self.seed}"
        table = plain_table(title)
        for column in ("parameter", "shape", "values", "rule"):
            table.add_column(column, overflow="fold")
        groups: dict[tuple[str, ...], int] = {}
        for entry in self.entries.values():
            names = " = ".join(block_pattern(n) for n in (entry["name"], *entry["tied_to"]))
            shape = "x".join(map(str, entry["shape"])) or "scalar"
            values = "kept" if entry["keep"] else entry["distribution"]
            key = (names, shape, values, entry["rule"])
            groups[key] = groups.get(key, 0) + 1
        for (names, *rest), members in groups.items():
            table.add_row(*literal(names if members == 1 else f"{members} x {names}", *rest))
        return table

    def _repr_html_(self) -> str:
        return render_html(self)

    def __str__(self) -> str:
        return render(self)


def receipt_entry(entry: PlanEntry) -> dict[str, Any]:
    """Return the entry of a receipt for one parameter.

    Args:
        entry: The plan for it.

    Returns:
        JSON-able values of the plan, and the distribution with its numbers.
    """
    return {**entry.to_dict(), "fill": distribution_to_dict(entry.distribution)}


def _checked(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of an entry that was read.

    Raises:
        KeyError: If it lacks a field.
        TypeError: If a field is of another kind.
    """
    for name, kind in _KINDS.items():
        if not isinstance(entry[name], kind):
            raise TypeError(f"{name} of {entry['name']!r} is a {type(entry[name]).__name__}")
    if not all(isinstance(n, str) for n in (*entry["tied_to"], *entry["also_matched"])):
        raise TypeError(f"tied_to and also_matched of {entry['name']!r} hold more than names")
    return dict(entry)


def _entry_of(
    function: str, values: dict[str, Any], slot: Slot, by_key: Mapping[str, Slot]
) -> PlanEntry:
    """Return an entry of a plan from one of a receipt, for a parameter of a model."""
    parameter = slot.parameter
    got = (list(parameter.shape), str(parameter.dtype).removeprefix("torch."))
    if got != (values["shape"], values["dtype"]) or parameter.is_meta:
        where = ", on the meta device" if parameter.is_meta else ""
        raise ValueError(
            f"initstats.Receipt.{function}: expected {slot.name} of shape {values['shape']} and "
            f"dtype {values['dtype']} with values, got shape={got[0]}, dtype={got[1]}{where}"
        )
    promised = distribution_from_dict(values["fill"])
    source = None
    if isinstance(promised, Derived):
        origin = by_key.get(promised.of)
        if origin is None:
            raise ValueError(
                f"initstats.Receipt.{function}: expected a model with {promised.of}, which "
                f"{slot.name} is the {promised.how} of, got none"
            )
        require_fitting(promised, slot.name, parameter, origin.parameter)
        source = origin.name, origin.parameter
    return PlanEntry(
        name=slot.name,
        key_name=values["key_name"],
        shape=tuple(values["shape"]),
        dtype=values["dtype"],
        count=values["count"],
        role=values["role"],
        rule=values["rule"],
        why=values["why"],
        distribution=promised,
        tied_to=tuple(values["tied_to"]),
        also_matched=tuple(values["also_matched"]),
        keep=values["keep"],
        zero_row=values["zero_row"],
        tie_problem="",
        parameter=parameter,
        group=(slot,),
        source=source,
    )


class LocalPrints:
    """Fingerprints of what this rank holds of parameters, of which some are DTensors.

    Args:
        function: Public function on whose behalf this is done, for messages.
        parameters: The parameters by name.
    """

    def __init__(self, function: str, parameters: Mapping[str, torch.Tensor]) -> None:
        domain = Domain.of(function, parameters.values())
        assert domain is not None
        self._domain, self._parameters = domain, list(parameters.values())
        self._places = {name: i for i, name in enumerate(parameters)}
        blocks = []
        for name, parameter in parameters.items():
            for part in Piece(name, name, parameter, _ANY).parts(function):
                box = part.box or Box((0,) * parameter.dim(), tuple(parameter.shape))
                blocks.append((name, part.tensor, box))
        self._blocks = [name for name, _, _ in blocks]
        self._records = records_of_blocks(blocks, Groups.FINGERPRINT)

    def _local(self) -> torch.Tensor:
        """Return the fingerprints of this rank, int64 [parameters]."""
        sums = torch.zeros(len(self._places), dtype=torch.int64)
        for name, record in zip(self._blocks, self._records, strict=True):
            sums[self._places[name]] += signed(record.fingerprint)
        return sums

    def merged(self) -> dict[str, int]:
        """Return the fingerprints of whole parameters, of the first replica. Collective."""
        self._domain.settle(self._parameters)
        owned = torch.tensor([self._domain.owns(p) for p in self._parameters])
        sums = self._domain.sum(self._local() * owned)
        return {name: int(sums[i]) % (1 << 64) for name, i in self._places.items()}

    def differing(self, prints: Mapping[str, int]) -> set[str]:
        """Return the parameters of which a replica has another fingerprint. Collective."""
        found = self._domain.replicas(self._parameters, self._local())
        wrong = [
            signed(prints.get(name, 0)) != int(found[i]) and is_held(self._parameters[i])
            for name, i in self._places.items()
        ]
        any_rank = self._domain.sum(torch.tensor(wrong, dtype=torch.int64))
        return {name for name, i in self._places.items() if any_rank[i]}


def signed(fingerprint: int) -> int:
    """Return the int64 of a fingerprint."""
    return fingerprint - (1 << 64) if fingerprint >> 63 else fingerprint


def fingerprints_of(
    function: str, parameters: Mapping[str, torch.Tensor]
) -> StatsTable | LocalPrints:
    """Take the fingerprints of parameters, in one launch per device.

    Args:
        function: Public function on whose behalf this is done, for messages.
        parameters: The parameters by name.

    Returns:
        The records, which are not read before somebody asks.
    """
    if any(is_dtensor(parameter) for parameter in parameters.values()):
        return LocalPrints(function, parameters)
    if not parameters:
        return StatsTable({})
    with torch.no_grad():
        found = {name: parameter.detach() for name, parameter in parameters.items()}
        return stats(found, moments=False, histogram=False, fingerprint=True)


def take_fingerprints(function: str, entries: list[PlanEntry]) -> StatsTable | LocalPrints | None:
    """Take the fingerprints of the parameters of some entries, in one launch per device.

    Args:
        function: Public function on whose behalf this is done, for messages.
        entries: The entries; those on the meta device are left out.

    Returns:
        The records, which are not read before somebody asks; None if there is nothing to take.
    """
    parameters = {e.name: e.parameter for e in entries if not e.parameter.is_meta}
    return fingerprints_of(function, parameters) if parameters else None
