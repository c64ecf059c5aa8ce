"""Warm starts: copy what a checkpoint has, grow what it has less of, initialise the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from initstats.planning.fitting import (
    check_copies,
    parameters_of,
    refuse_lazy,
    refuse_parametrized,
    some,
    spelt_names,
    tensor_of,
)
from initstats.planning.growth import Grown
from initstats.planning.initialize import initialise_plan, seed_or_draw
from initstats.planning.new_blocks import (
    Expansion,
    NewBlocks,
    expanded_blocks,
    require_complete,
)
from initstats.planning.new_experts import is_dense_layer, upcycled_experts
from initstats.planning.new_rows import resized_rows
from initstats.planning.planner import Plan, plan
from initstats.planning.receipt import Receipt
from initstats.planning.transfer import restricted, targets_of
from initstats.recipes import Recipe, Slot
from initstats.recipes.parameters import slots
from initstats.recipes.stages import Depth, Names
from initstats.sharding import is_dtensor, local_boxes, local_tensor, reshard


@dataclass(frozen=True, eq=False)
class WarmStart:
    """Report of `warm_start_`.

    Attributes:
        copied: Names of parameters and buffers that were copied.
        initialised: Names of parameters that the recipe initialised.
        mismatched: Name, shape in the checkpoint and shape in the model of what did not fit.
        unused: Names in the checkpoint that the model does not have.
        receipt: The receipt of the initialised parameters; None if everything was copied.
        grown: What `new_rows`, `new_blocks` and `new_experts` made of the checkpoint, in words, by
            name.
        seed: The seed of what was drawn.
    """

    copied: tuple[str, ...]
    initialised: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    unused: tuple[str, ...]
    receipt: Receipt | None
    grown: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-able values."""
        return {
            "copied": list(self.copied),
            "initialised": list(self.initialised),
            "mismatched": [[name, list(a), list(b)] for name, a, b in self.mismatched],
            "unused": list(self.unused),
            "receipt": None if self.receipt is None else self.receipt.to_dict(),
            "grown": dict(self.grown),
            "seed": self.seed,
        }


def warm_start_(
    model: nn.Module,
    state_dict: Mapping[str, Any],
    recipe: Recipe | str,
    *,
    seed: int | None = None,
    roles: Mapping[str, str] | None = None,
    names: Names | None = None,
    depth: Depth | None = None,
    new_rows: str | None = None,
    new_blocks: NewBlocks | None = None,
    new_experts: str | None = None,
    redrawn: float = 0.0,
) -> WarmStart:
    """Copy parameters of equal name and shape from a checkpoint, and initialise the rest.

    Names fit without the prefixes that wrappers add (`module.` of DDP, `_orig_mod.` of
    torch.compile, FSDP's), in the checkpoint as in the model. If more names fit without a prefix of
    one side, such as `model.` or `bert.`, and half of those of the smaller side do, it is taken
    off.

    The last four options are for a model that is larger than the one of the checkpoint: more
    tokens, more blocks, experts instead of an MLP. Several may be given.

    Args:
        model: The model; not on the meta device.
        state_dict: The checkpoint: tensors or NumPy arrays by name, of any floating dtype and
            device, finite; also DTensors, which are gathered one by one where they are cut
            otherwise than in the model. Or a dictionary that holds it under "model", "state_dict",
            "model_state_dict", or another key if no other dictionary in it has names of the model.
        recipe: A recipe or its name, for parameters that are not copied.
        seed: As in `init_`.
        roles: As in `plan`.
        names: As in `plan`.
        depth: As in `plan`.
        new_rows: For embeddings with other rows than in the checkpoint, and heads with the same
            numbers: copy the rows that both have. "covariance" draws new ones from N(mean, 1e-9
            covariance) of the old, and new biases of a head from N(mean, 1e-9 std), as
            `resize_token_embeddings` of transformers does; "mean" gives all of them the mean. A new
            padding row is 0. None: the recipe initialises all rows.
        new_blocks: For a stack of more blocks than in the checkpoint: the new ones are copies of
            their neighbours whose outputs are 0 (what the roles "attention output" and "mlp output"
            have), so that a model that adds them to its residual stream computes what it did.
            "identity" puts one after every n-th block (LLaMA-Pro); or the index in the checkpoint
            of every block by path of the stack, `{"model.layers": [0, 0, 1, 1]}`, of which a second
            occurrence is a new block. Blocks that differ by their number alone (sliding and full
            attention in turn) and norms behind the sum (BERT) are not looked for.
        new_experts: "copy": every expert is a copy of the dense MLP that the checkpoint has in its
            block; routers and shared experts are the recipe's. The model computes what it did if
            the weights of the chosen experts sum to 1.
        redrawn: With `new_experts`, the share of hidden units of each expert that is drawn anew,
            others in each: the rows of gate and up and the columns of down from normals with the
            mean and std of those that they replace. 0.5 in Drop-Upcycling; 0 to 1.

    Returns:
        What was copied, grown, initialised, did not fit or was not used.

    Raises:
        TypeError: As `init_`, or if `redrawn` is no number, or if `state_dict` is no mapping, holds
            something else than dense tensors under a name of the model, or integers for a
            floating-point parameter.
        ValueError: If no rule takes a parameter that is not copied, no name fits, several prefixes
            or inner dictionaries fit equally well, a tensor is on the meta device, holds values
            that are not finite (minus infinity in a buffer is a mask) or that the parameter's dtype
            does not hold, two names of a tied parameter have different values, the checkpoint holds
            the parts of a weight that is plain in the model, or as `init_`; if an option is out of
            range, `new_blocks` or `new_experts` finds nothing to grow, blocks or experts are not
            like those of the checkpoint, or `new_blocks` is given for a part of a model. Nothing
            has been written then.

    Determinism: bitwise, as `init_`; new rows and experts that are drawn anew run_to_run, since
        they depend on sums over the checkpoint.

    Source: transformers `modeling_utils.py`, _init_added_embeddings_weights_with_mean; LLaMA-Pro
        `scripts/block_expansion.py`, 492e07e (Wu et al. 2024); Komatsuzaki et al. 2023, "Sparse
        Upcycling"; Nakamura et al. 2025, "Drop-Upcycling".
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            "initstats.warm_start_: expected state_dict to be a mapping from names to tensors, "
            f"got state_dict={type(state_dict).__name__}"
        )
    if new_blocks is not None and (names is not None or depth is not None):
        raise ValueError(
            "initstats.warm_start_: expected a whole model for new_blocks, got names or depth of a "
            "part; grow the whole one first"
        )
    reshard(model)
    targets = targets_of("warm_start_", model, names)
    refuse_lazy("warm_start_", targets)
    groups = slots(model, roles, names=names, function="warm_start_", buffers=True)
    found = _read(model, state_dict, targets, groups, new_blocks)
    blocks, values = found.blocks, found.values
    fits = {name: x for name, x in values.items() if x.shape == targets[name].shape}
    grown = resized_rows(new_rows, groups, values, targets)
    dense = found.dense if new_experts else {}
    grown |= upcycled_experts(new_experts, redrawn, groups, {*fits, *grown}, dense)
    parts = {part: name for name, made in grown.items() for part in made.sources}
    _check_values(model, targets, {n: values[n] for n in (*fits, *grown) if n in values})
    _check_values(
        model, {p: targets[n].detach() for p, n in parts.items()}, {p: dense[p] for p in parts}
    )
    known = {*fits, *grown}
    require_complete(blocks, known, groups, routers=bool(new_experts))
    grown |= {name: _zeros(targets[name], how) for name, how in blocks.zeroed.items()}
    seed = seed_or_draw("warm_start_", seed)
    planned = restricted(
        plan(model, recipe, roles=roles, names=names, depth=depth), model, known, names
    )
    receipt = _initialised(model, planned, seed)
    with torch.no_grad():
        for name, value in fits.items():
            if name not in grown:
                _copy(targets[name], value)
        _write_grown(targets, grown, seed)
    moved = {name: how for name, how in blocks.copied.items() if name in fits}
    used = {blocks.names[name] for name in (*values, *parts)}
    return WarmStart(
        copied=tuple(name for name in fits if name not in grown and name not in moved),
        initialised=tuple(entry.name for entry in planned if not entry.keep),
        mismatched=tuple(
            (name, tuple(value.shape), tuple(targets[name].shape))
            for name, value in values.items()
            if name not in known
        ),
        unused=tuple(str(name) for name in found.state_dict if name not in used),
        receipt=receipt,
        grown=moved | {name: made.how for name, made in grown.items()},
        seed=seed,
    )


class _Found(NamedTuple):
    """What a checkpoint has for a model.

    Attributes:
        state_dict: The dictionary that holds it.
        blocks: Where its blocks come from.
        values: What the checkpoint has under names of the model.
        dense: Layers of an MLP that the model does not have, by name in its spelling.
    """

    state_dict: Mapping[Any, Any]
    blocks: Expansion
    values: Mapping[str, torch.Tensor]
    dense: Mapping[str, torch.Tensor]


def _read(
    model: nn.Module,
    state_dict: Mapping[str, Any],
    targets: Mapping[str, torch.Tensor],
    groups: Sequence[tuple[Slot, ...]],
    new_blocks: NewBlocks | None,
) -> _Found:
    """Find what a checkpoint has for a model.

    Raises:
        TypeError: As `warm_start_`.
        ValueError: As `warm_start_`.
    """
    state_dict = parameters_of("warm_start_", state_dict, targets)
    spelt = spelt_names("warm_start_", state_dict, targets)
    if not any(name in targets for name in spelt):
        raise ValueError(
            "initstats.warm_start_: expected names of the model in state_dict, got "
            f"{some(state_dict)} where the model has {some(targets)}"
        )
    blocks = expanded_blocks(model, new_blocks, groups, spelt)
    sources = {name: source for name, source in blocks.names.items() if name in targets}
    refuse_parametrized("warm_start_", state_dict, sources, targets)
    values = {
        name: tensor_of("warm_start_", name, state_dict[source]) for name, source in sources.items()
    }
    dense = {
        name: tensor_of("warm_start_", name, state_dict[source])
        for name, source in blocks.names.items()
        if name not in targets and is_dense_layer(name, state_dict[source])
    }
    return _Found(state_dict, blocks, values, dense)


def _initialised(model: nn.Module, planned: Plan, seed: int) -> Receipt | None:
    """Let the recipe initialise what is left for it; None for nothing.

    Raises:
        ValueError: As `warm_start_`.
    """
    if not planned.entries and not planned.unmatched:
        return None
    planned.require_complete("warm_start_")
    on_meta = next((entry.name for entry in planned if entry.parameter.is_meta), None)
    if on_meta is not None:
        raise ValueError(
            f"initstats.warm_start_: expected a model with memory, got {on_meta} on the meta "
            "device; call to_empty first"
        )
    return initialise_plan("warm_start_", model, planned, seed=seed)


def _write_grown(
    targets: Mapping[str, torch.Tensor], grown: Mapping[str, Grown], seed: int
) -> None:
    """Write what grows, a tied parameter once."""
    written: set[int] = set()
    for name, made in grown.items():
        if id(targets[name]) not in written:
            _copy(targets[name], made.make(seed))
            written.add(id(targets[name]))


def _check_values(
    model: nn.Module, targets: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]
) -> None:
    """Refuse values that their targets cannot hold."""
    check_copies("warm_start_", values, targets, dict(model.named_buffers()))


def _zeros(target: torch.Tensor, how: str) -> Grown:
    """Return a parameter of zeros."""
    return Grown((), how, lambda _: torch.zeros((), device=target.device).expand(target.shape))


def _copy(target: torch.Tensor, value: torch.Tensor) -> None:
    """Copy a value; of a whole one a DTensor takes what this rank holds, and nothing is sent.

    A DTensor that is cut otherwise than its target is gathered, one at a time: collective.
    """
    if is_dtensor(value):
        if is_dtensor(target) and (target.device_mesh, target.placements) == (
            value.device_mesh,
            value.placements,
        ):
            local_tensor(target).copy_(local_tensor(value))
            return
        value = value.full_tensor()
    if not is_dtensor(target):
        target.copy_(value)
        return
    local = local_tensor(target)
    for slices, box in local_boxes("warm_start_", target):
        part = local[slices]
        ranges = zip(box.offset, part.shape, strict=True)
        part.copy_(value[tuple(slice(first, first + n) for first, n in ranges)])
