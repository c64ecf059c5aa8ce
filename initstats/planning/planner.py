"""Plans: the rule of a recipe that each parameter of a model matches, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from initstats.init.keys import integer_seed, key_of
from initstats.planning.entry import PlanEntry
from initstats.planning.sources import source_of
from initstats.planning.validate import (
    require_agreeing_ties,
    require_fillable,
    require_kept_ties,
    require_original_sources,
    require_own_memory,
    require_separate_memory,
    resolve,
)
from initstats.recipes import Computed, Constant, Derived, Recipe, Rule, Slot
from initstats.recipes.distributions.composite import Distribution, Kept
from initstats.recipes.multipliers import Forward
from initstats.recipes.parameters import slots
from initstats.recipes.roles import check_roles
from initstats.recipes.stages import Depth, Names
from initstats.sharding import reshard
from initstats.text import block_pattern, literal, plain_table, render, render_html

# Columns of the table as text: names, roles and reasons are long.
_WIDTH = 160
# A head may be tied to the embedding.
_TIED_ON_PURPOSE = {"embedding", "head"}
# Frozen in a model that trains they hold computed or pretrained values, such as sinusoids.
_TABLES = {"embedding", "position", "token"}

__all__ = ["Plan", "PlanEntry", "Recipe", "Rule", "plan"]


@dataclass(frozen=True, eq=False)
class Plan:
    """A recipe applied to a model: iterate over its entries, or print it as a table.

    Attributes:
        recipe: The recipe.
        entries: One per parameter that a rule takes, in the order of the model.
        unmatched: Names of the parameters that no rule takes.
        unused_rules: Labels of the rules that took nothing.
        seed: The seed whose keys are shown; None shows none.
        rest: The parameters of `unmatched`, by name.
        forward: Multipliers that the model must apply itself, with what it states of them.
    """

    recipe: Recipe
    entries: tuple[PlanEntry, ...]
    unmatched: tuple[str, ...]
    unused_rules: tuple[str, ...]
    seed: int | None = None
    rest: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    forward: tuple[Forward, ...] = ()

    def __iter__(self) -> Iterator[PlanEntry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def require_complete(self, function: str, *, allow_unmatched: bool = False) -> None:
        """Refuse a plan with parameters that no rule takes, or with a rule that takes nothing.

        Args:
            function: Public function on whose behalf this is checked, for the message.
            allow_unmatched: Parameters that no rule takes are fine.

        Raises:
            ValueError: Naming the parameters or the rules.
        """
        recipe = self.recipe
        if self.unmatched and not (allow_unmatched or recipe.partial):
            fix = "add a rule, or pass allow_unmatched=True"
            if any(".parametrizations." in f".{name}" for name in self.unmatched):
                fix = (
                    "remove parametrizations, initialise and register them again, or pass "
                    "allow_unmatched=True to leave what no rule takes"
                )
            raise ValueError(
                f"initstats.{function}: expected a rule for every parameter, got "
                f"unmatched={list(self.unmatched)} with recipe {recipe.name!r}; {fix}"
            )
        required = {rule.label for rule in recipe.rules if not rule.optional}
        unused = [label for label in self.unused_rules if label in required]
        if unused:
            raise ValueError(
                f"initstats.{function}: expected every rule to match a parameter, got "
                f"unused={unused} with recipe {recipe.name!r}; correct the rule, or make it with "
                "optional=True"
            )
        if not self.entries:
            raise ValueError(
                f"initstats.{function}: expected a model with parameters that recipe "
                f"{recipe.name!r} takes, got none"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-able values."""
        return {
            "recipe": self.recipe.name,
            "source": self.recipe.source,
            "seed": self.seed,
            "parameters": [{**entry.to_dict(), "key": self.key(entry)} for entry in self.entries],
            "unmatched": list(self.unmatched),
            "unused_rules": list(self.unused_rules),
            "forward": [multiplier.to_dict() for multiplier in self.forward],
        }

    def key(self, entry: PlanEntry) -> str | None:
        """Return the key of an entry's values as 16 hexadecimal digits, or None without a seed."""
        return None if self.seed is None else f"{key_of(self.seed, entry.key_name):016x}"

    def __rich__(self) -> Table:
        groups: dict[tuple[str, ...], int] = {}
        multiplied = any(str(entry.multipliers) for entry in self.entries)
        for entry in self.entries:
            key = self.key(entry)
            # With keys every parameter has a line; without, those of all blocks share one.
            pattern = block_pattern if key is None else str
            name = " = ".join(pattern(n) for n in (entry.name, *entry.tied_to))
            shape = "x".join(map(str, entry.shape)) or "scalar"
            loaded = entry.keep and not isinstance(entry.distribution, Kept)
            fill = "kept: already loaded" if loaded else entry.promise
            also = f"; before {', '.join(entry.also_matched)}" if entry.also_matched else ""
            tail = [*([str(entry.multipliers)] if multiplied else []), *([key] if key else [])]
            role = f"{entry.role}, a buffer" if entry.is_buffer else entry.role
            line = (name, shape, role, fill, f"{entry.rule}: {entry.why}{also}", *tail)
            groups[line] = groups.get(line, 0) + 1
        title = f"plan of recipe {self.recipe.name}: {len(self)} parameters"
        lines = [f"the model multiplies {multiplier}" for multiplier in self.forward]
        table = plain_table(title, caption=Text("\n".join(lines)) if lines else None)
        table.add_column("parameter", overflow="fold", min_width=24)
        for column in ("shape", "role", "values"):
            table.add_column(column, no_wrap=column != "role", min_width=10)
        table.add_column("rule, and why it matches")
        if multiplied:
            table.add_column("multipliers, AdamW", min_width=10)
        if self.seed is not None:
            table.add_column("key", no_wrap=True, min_width=16)
        for (name, *rest), members in groups.items():
            table.add_row(*literal(name if members == 1 else f"{members} x {name}", *rest))
        verdict = "left as it is" if self.recipe.partial else "[red]no rule takes it[/]"
        for name in self.unmatched:
            table.add_row(*literal(name, "", "", ""), verdict)
        return table

    def _repr_html_(self) -> str:
        return render_html(self, _WIDTH)

    def __str__(self) -> str:
        return render(self, _WIDTH)


def plan(
    model: nn.Module,
    recipe: Recipe | str,
    *,
    roles: Mapping[str, str] | None = None,
    names: Names | None = None,
    depth: Depth | None = None,
    seed: int | None = None,
) -> Plan:
    """Decide which rule of a recipe takes each parameter. Writes nothing.

    Rules are tried in the order of the recipe and the first that matches takes the parameter;
    the entry names the others. A tied parameter is planned once: its names are tried in the order
    of the model, and the first name that any rule takes decides. The row of an embedding that its
    `padding_idx` names stays 0. A frozen table of a model that trains (fixed sinusoids, with
    `requires_grad=False`) is kept, unless the rule names it. Buffers are planned where a rule names
    them; others are none of the recipe's.

    Args:
        model: Any module, also on the meta device.
        recipe: A recipe, or the name of one in `initstats.recipes.available()`.
        roles: Roles (`initstats.recipes.ROLES`) by glob pattern on the name, for parameters whose
            role is not recognised well; the first pattern that matches decides.
        names: For a part of a model, such as a pipeline stage: its names in the whole, from which
            come roles, keys and the numbers of blocks. A mapping from local to global names of
            parameters or of modules (`{"0": "h.4"}` renames `0.mlp.weight`), or a function.
        depth: For a part of a model: number of blocks of the whole stack; or such by glob pattern
            on the path of the stack, for several. A rule that depends on it is refused without,
            if the model seems to be a part: names are given, blocks are numbered with gaps, or a
            module states more blocks (`num_hidden_layers`, `n_layers`, ...) than there are.
        seed: Show the key of each parameter that `init_` with this seed takes.

    Returns:
        The plan. Parameters that no rule takes are listed in `unmatched`.

    Raises:
        TypeError: If `model` is no module or `recipe` neither a recipe nor a name.
        ValueError: If the model has no parameters, the recipe or a role is unknown, the seed is
            outside [-2**63, 2**64), a parameter
            that a rule takes cannot be filled (lazy and not yet shaped, of size 0, sparse, not
            floating point, or hidden behind a parametrization), two parameters share a part of
            their memory, the names of a tied one contradict each other, sharding untied what the
            configuration says is tied, `names` gives two
            parameters one name, `depth` does not fit the blocks, or it is needed and not given.

    Determinism: bitwise. A plan depends on the names, classes and shapes of the model only.
    """
    recipe = resolve("plan", model, recipe)
    check_roles("plan", roles)
    if seed is not None:
        seed = integer_seed("plan", seed)
    reshard(model)
    listed = slots(model, roles, names=names, depth=depth, base=recipe.base, buffers=True)
    groups = [
        group
        for group in listed
        if not group[0].is_buffer or any(recipe.matches(slot) for slot in group)
    ]
    require_own_memory("plan", groups)
    require_kept_ties(model)
    require_separate_memory(groups)
    entries: list[PlanEntry] = []
    rest: dict[str, Tensor] = {}
    used: set[int] = set()
    for group in groups:
        taken = [(slot, matches) for slot in group if (matches := recipe.matches(slot))]
        if not taken:
            rest[group[0].name] = group[0].parameter
            continue
        used.update(matches[0][0] for _, matches in taken)
        entries.append(_entry(group, taken, recipe, groups))
    require_original_sources(entries)
    unused = tuple(rule.label for i, rule in enumerate(recipe.rules) if i not in used)
    forward = () if recipe.forward is None else tuple(recipe.forward(groups))
    return Plan(recipe, tuple(entries), tuple(rest), unused, seed, rest, forward)


def _entry(
    group: tuple[Slot, ...],
    taken: list[tuple[Slot, list[tuple[int, str]]]],
    recipe: Recipe,
    groups: Sequence[tuple[Slot, ...]],
) -> PlanEntry:
    """Return the entry of a parameter by the first of its names that a rule takes."""
    slot, matches = taken[0]
    index, why = matches[0]
    # transformers v5 marks what it loaded from a checkpoint.
    keep = bool(getattr(slot.parameter, "_is_hf_initialized", False))
    if not keep:
        require_fillable(slot, is_named=recipe.rules[index].names(slot))
    promised = recipe.rules[index].distribution(slot)
    if _is_frozen_table(slot) and not recipe.rules[index].names(slot):
        promised = Kept("a frozen table, requires_grad=False")
    source = None
    if isinstance(promised, Derived):
        promised, source = source_of(promised, group, groups)
    others = [(other, recipe.rules[m[0][0]].distribution(other)) for other, m in taken[1:]]
    require_agreeing_ties([(slot, promised), *others])
    return PlanEntry(
        name=slot.name,
        key_name=slot.key_name,
        shape=tuple(slot.parameter.shape),
        dtype=str(slot.parameter.dtype).removeprefix("torch."),
        count=slot.parameter.numel(),
        role=slot.role.name,
        rule=recipe.rules[index].label,
        why=why,
        distribution=promised,
        tied_to=tuple(other.name for other in group if other is not slot),
        also_matched=tuple(recipe.rules[i].label for i, _ in matches[1:]),
        multipliers=recipe.rules[index].multipliers_of(slot),
        keep=keep or isinstance(promised, Kept),
        zero_row=_padding_row(group, promised),
        tie_problem=_tie_problem(group),
        parameter=slot.parameter,
        group=group,
        source=source,
    )


def _is_frozen_table(slot: Slot) -> bool:
    """Tell whether a parameter is a frozen table of a model in which something trains."""
    if slot.parameter.requires_grad or slot.role.name not in _TABLES:
        return False
    return any(p.requires_grad for p in slot.parents[0].parameters())


def _tie_problem(group: tuple[Slot, ...]) -> str:
    """Describe an unusual tie: between blocks, or between layers of different roles.

    What a model of transformers declares as tied (Zamba's shared layers) is not unusual.
    """
    first = group[0]
    if first.is_buffer:  # tables and fixed projections are shared on purpose
        return ""
    for other in group[1:]:
        if _is_declared(other):
            continue
        if other.block != first.block:
            return f"{other.name} in another block is the same parameter"
        roles = {first.role.name, other.role.name}
        if len(roles) > 1 and not roles <= _TIED_ON_PURPOSE:
            return f"{other.name} with role {other.role.name} is the same parameter"
    return ""


def _is_declared(slot: Slot) -> bool:
    """Tell whether a model around a parameter lists it among those that it ties."""
    for module in slot.parents:
        declared = getattr(module, "all_tied_weights_keys", None)
        if isinstance(declared, dict) and any(
            f".{slot.name}".endswith(f".{name}") for name in declared
        ):
            return True
    return False


def _padding_row(group: tuple[Slot, ...], promised: Distribution) -> int | None:
    """Return the padding row of an embedding, if it is one with random values."""
    if isinstance(promised, (Constant, Kept, Computed, Derived)):
        return None
    for slot in group:
        row = getattr(slot.module, "padding_idx", None)
        if isinstance(row, int) and slot.role.name in {"embedding", "position"}:
            return row
    return None
