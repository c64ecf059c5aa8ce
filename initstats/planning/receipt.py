"""Receipts of `init_`: data to reproduce the same weights and to check them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import nn

from initstats.init.keys import key_of
from initstats.planning.entry import PlanEntry
from initstats.planning.write import fill_entries
from initstats.recipes.distributions.json import distribution_from_dict, distribution_to_dict
from initstats.recipes.parameters import Slot, slots
from initstats.recipes.stages import Names
from initstats.statistics.compute import stats
from initstats.statistics.table import StatsTable
from initstats.text import block_pattern, plain_table, render, render_html

RECEIPT_SCHEMA = "initstats.receipt/1"


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
    _fingerprints: StatsTable | Mapping[str, int] | None = field(default=None, repr=False)

    @property
    def fingerprints(self) -> dict[str, int]:
        """The 64-bit fingerprint of each parameter as `init_` wrote it; empty if none was taken."""
        taken = self._fingerprints or {}
        return {n: v if isinstance(v, int) else v.fingerprint for n, v in taken.items()}

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
    def from_dict(cls, values: Mapping[str, Any]) -> Receipt:
        """Make a receipt from the values of `to_dict`.

        Args:
            values: The values.

        Returns:
            The receipt.

        Raises:
            ValueError: If the schema is another one.
        """
        if values.get("schema") != RECEIPT_SCHEMA:
            raise ValueError(
                f"initstats.Receipt: expected schema {RECEIPT_SCHEMA!r}, "
                f"got schema={values.get('schema')!r}"
            )
        entries = {entry["name"]: dict(entry) for entry in values["parameters"]}
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
            ValueError: If the schema is another one.
        """
        return cls.from_dict(json.loads(Path(path).read_text()))

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
        parameters that are missing.

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
        prints = self.fingerprints
        if not prints:
            raise ValueError(
                "initstats.Receipt.check: expected a receipt with fingerprints, got none; "
                "call init_ with fingerprints=True"
            )
        bound = self._bind("check", model, names, allow_missing=True)
        found = {name: entry.parameter.detach() for name, entry in bound.items() if entry}
        records = stats(found, moments=False, histogram=False, fingerprint=True) if found else {}
        problems = {}
        for name, mark in prints.items():
            if name not in records:
                problems[name] = "not in the model"
            elif records[name].fingerprint != mark:
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
        groups = slots(model, names=names, function=f"Receipt.{function}")
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
            bound[name] = _entry_of(function, entry, slot)
        return bound

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
            table.add_row(names if members == 1 else f"{members} x {names}", *rest)
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


def _entry_of(function: str, values: dict[str, Any], slot: Slot) -> PlanEntry:
    """Return an entry of a plan from one of a receipt, for a parameter of a model."""
    parameter = slot.parameter
    got = (list(parameter.shape), str(parameter.dtype).removeprefix("torch."))
    if got != (values["shape"], values["dtype"]) or parameter.is_meta:
        where = ", on the meta device" if parameter.is_meta else ""
        raise ValueError(
            f"initstats.Receipt.{function}: expected {slot.name} of shape {values['shape']} and "
            f"dtype {values['dtype']} with values, got shape={got[0]}, dtype={got[1]}{where}"
        )
    return PlanEntry(
        name=slot.name,
        key_name=values["key_name"],
        shape=tuple(values["shape"]),
        dtype=values["dtype"],
        count=values["count"],
        role=values["role"],
        rule=values["rule"],
        why=values["why"],
        distribution=distribution_from_dict(values["fill"]),
        tied_to=tuple(values["tied_to"]),
        also_matched=tuple(values["also_matched"]),
        keep=values["keep"],
        zero_row=values["zero_row"],
        tie_problem="",
        parameter=parameter,
        group=(slot,),
    )


def take_fingerprints(entries: list[PlanEntry]) -> StatsTable | None:
    """Take the fingerprints of the parameters of some entries, in one launch per device.

    Args:
        entries: The entries; those on the meta device are left out.

    Returns:
        The records, which are not read before somebody asks; None if there is nothing to take.
    """
    tensors = {e.name: e.parameter.detach() for e in entries if not e.parameter.is_meta}
    if not tensors:
        return None
    with torch.no_grad():
        return stats(tensors, moments=False, histogram=False, fingerprint=True)
