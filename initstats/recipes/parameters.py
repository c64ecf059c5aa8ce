"""Parameters of a model as recipes see them: names, owner, role, fans, block in a stack."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import nn

from initstats.init.fans import Fans, calculate_fan_in_and_fan_out
from initstats.recipes.experts import expert_shape, is_bank
from initstats.recipes.role_patterns import SPECIAL
from initstats.recipes.roles import Role, recognise
from initstats.recipes.stages import (
    Depth,
    Names,
    Stack,
    check_depth,
    global_names,
    place,
    stated_depth,
)
from initstats.recipes.width import (
    HEAD_WIDTHS,
    HEADS,
    WIDTHS,
    Base,
    Growth,
    growth_by_role,
    growth_by_shape,
    kind_of_convolution,
    stated_width,
)
from initstats.sharding import is_dtensor

# Modules that wrap a model put their name into the names of its parameters; keys leave them out.
_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_THREE_IN_ONE = re.compile(r"qkv|c_attn|query_key_value|Wqkv|qkv_proj|to_qkv|in_proj(_weight)?")

_NO_ROLE = Role("other", "not asked for")


@dataclass(frozen=True, eq=False)
class Slot:
    """One name under which a model holds a parameter.

    Attributes:
        name: Full name, as in `model.named_parameters()`.
        parameter: The parameter, any shape.
        module: The module that owns it under this name.
        block: Index from 0 of the block it belongs to, or None outside a stack of blocks.
        blocks: Number of blocks in that stack, or None outside a stack.
        parents: The modules from the model down to the owner.
        role: The role, with the reason.
        cut: Why the place in the whole stack is not known, in words: the model seems to be a part
            of one, such as a pipeline stage. Empty where it is known.
        depth: Number of blocks of the whole, if it was given.
        is_buffer: It is a buffer, no parameter.
        base: The model whose width this one's is compared with; None for itself.
        tied_roles: Roles under its other names, of a tied parameter.
    """

    name: str
    parameter: torch.Tensor
    module: nn.Module
    block: int | None = None
    blocks: int | None = None
    parents: tuple[nn.Module, ...] = ()
    role: Role = _NO_ROLE
    cut: str = ""
    depth: Depth | None = None
    is_buffer: bool = False
    base: Base | None = None
    tied_roles: tuple[str, ...] = ()

    @property
    def own_name(self) -> str:
        """Last part of the name."""
        return self.name.rpartition(".")[2]

    @property
    def leaf(self) -> str:
        """Name of the layer, or the parameter's own name if it has no layer."""
        parts = [part for part in self.name.split(".") if not part.isdigit()]
        return parts[-2] if parts[-1] in {"weight", "bias"} and len(parts) > 1 else parts[-1]

    @property
    def is_entry(self) -> bool:
        """Tell whether a dictionary of parameters or buffers holds it, under a name of its own."""
        is_dictionary = isinstance(self.module, nn.ParameterDict) or (
            type(self.module).__name__ == "BufferDict"  # of peft
        )
        return is_dictionary and "." in self.name

    @property
    def key_name(self) -> str:
        """Name that the key is made from: without wrappers such as torch.compile's."""
        parts = self.name.split(".")
        if len(parts) > 1 and parts[0] == "module":  # DistributedDataParallel
            parts = parts[1:]
        return ".".join(part for part in parts if part not in _WRAPPERS)

    @property
    def kind(self) -> str:
        """Tell "bias" from "weight": a bias is a vector whose own name says so, or a bank."""
        named = re.search(r"(^|_)bias(_|$)|^shift$|^beta$", self.own_name)
        is_vector = self.parameter.dim() <= 1 or self.role.name == "norm"  # GRN: [1, 1, 1, width]
        return "bias" if named and (is_vector or self._is_bank_of_biases) else "weight"

    @property
    def _is_bank_of_biases(self) -> bool:
        """Tell whether it holds one bias per expert, [experts, out], beside a bank of matrices."""
        layer = self.own_name.partition("_bias")[0]
        return self.parameter.dim() == 2 and any(  # noqa: PLR2004
            p.dim() == self.parameter.dim() + 1 and name.startswith(layer)
            for name, p in self.module.named_parameters(recurse=False)
        )

    @property
    def is_special(self) -> bool:
        """Tell whether generic rules never take it: buffers, and parameters with own numbers."""
        found = SPECIAL.search(self.name)
        if self.role.why.startswith("given for"):
            return False
        if self.is_buffer or found is None:
            return self.is_buffer
        # A single letter means this only beside the others.
        return found[2] != "D" or any(
            SPECIAL.search(name) and name != "D" for name, _ in self.module.named_parameters()
        )

    @property
    def packed(self) -> int:
        """How many projections of equal size are stacked along the output dimension."""
        if isinstance(self.module, (nn.LSTM, nn.LSTMCell)):
            return 4
        if isinstance(self.module, (nn.GRU, nn.GRUCell)):
            return 3
        rows, columns = self.matrix_shape
        if _THREE_IN_ONE.fullmatch(self.leaf) and rows == 3 * columns:
            return 3
        return 1

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Outputs and inputs of the layer, or of one expert of a bank; (0, 0) for a vector.

        Transposed layouts are put right.
        """
        shape = self.parameter.shape
        if len(shape) < 2:  # noqa: PLR2004  # a matrix has two
            return 0, 0
        if type(self.module).__name__ == "Conv1D":  # transformers: [in, out]
            return shape[1], shape[0]
        if is_bank(self.parameter, self.role.name, self.module):
            return expert_shape(self.parameter, self.role.name, self.parents, self.model_width)
        return shape[0], shape[1:].numel()

    @property
    def fans(self) -> Fans:
        """Fans of the layer's operation: groups, transposition, packed matrices counted."""
        module = self.module
        if is_bank(self.parameter, self.role.name, module):
            rows, columns = self.matrix_shape
            return Fans(columns, rows)
        weight = self.parameter.T if type(module).__name__ == "Conv1D" else self.parameter
        return calculate_fan_in_and_fan_out(
            weight,
            groups=getattr(module, "groups", 1) if self.role.name == "convolution" else 1,
            transposed=bool(getattr(module, "transposed", False)),
            packed=self.packed,
        )

    @property
    def width(self) -> int:
        """The width of the residual stream, as far as this parameter tells it."""
        if self.role.name in {"embedding", "position", "token"}:
            return int(self.parameter.shape[-1])
        rows, columns = self.matrix_shape
        return rows if self.role.name in {"attention output", "mlp output"} else columns

    @property
    def heads(self) -> int | None:
        """The number of attention heads that a module around the parameter states."""
        return self._stated(HEADS)

    @property
    def head_width(self) -> int | None:
        """The width of one attention head that a module around the parameter states."""
        return self._stated(HEAD_WIDTHS)

    @property
    def model_width(self) -> int | None:
        """The width of the model that a module around the parameter states."""
        return self._stated(WIDTHS)

    @property
    def growth(self) -> Growth:
        """How the parameter grows with the width, against the base of the recipe.

        A head that is tied to the embedding is an embedding.

        Raises:
            ValueError: If the base is a number, and the role does not tell which dimensions grow;
                or the width of the model is not known; or the base has other parameters.
        """
        role = "embedding" if "embedding" in self.tied_roles else self.role.name
        base = self.base or Base(width_mult=1.0)
        shape = base.shape_of(self.key_name, self.parameter.shape)
        is_bias = self.kind == "bias"
        if shape is not None:
            sides = self._sides(shape)
            return growth_by_shape(sides, self.parameter, shape, role, is_bias=is_bias)
        width_mult = base.width_mult
        if width_mult is None:
            width = stated_width(self.parents[0]) if self.parents else None
            if width is None or base.width is None:
                raise ValueError(
                    "initstats.plan: expected a model that states its width (d_model, hidden_size, "
                    f"...) or has an embedding, got neither with base={base.width}; give the base "
                    "as a model: base=build(...)"
                )
            width_mult = width / base.width
        kind = None
        if role == "convolution" and self.parents:
            kind = kind_of_convolution(self.module, self.parents[0])
        try:
            return growth_by_role(role, width_mult, self.parameter, is_bias=is_bias, kind=kind)
        except LookupError:
            raise ValueError(
                "initstats.plan: expected base to be a model, or shapes by name, for a layer whose "
                f"role does not tell which sides grow with the width, got {self.name} with role "
                f"{role!r} and a number; or give its role with roles="
            ) from None

    @property
    def width_mult(self) -> float:
        """How many times more inputs than in the base; of vectors and embeddings the width."""
        return self.growth.width_mult

    def _sides(self, base_shape: tuple[int, ...]) -> tuple[float, float]:
        """Return outputs and inputs of the layer, against those of the base."""
        shape = self.parameter.shape
        if len(shape) < 2:  # noqa: PLR2004  # a matrix has two
            return 1.0, 1.0
        ratios = [now / base for now, base in zip(shape, base_shape, strict=True)]
        if is_bank(self.parameter, self.role.name, self.module):
            ratios = ratios[1:]
            is_transposed = self.matrix_shape != tuple(shape[1:])
        else:
            is_transposed = type(self.module).__name__ == "Conv1D" or bool(
                getattr(self.module, "transposed", False)
            )
        return (ratios[1], ratios[0]) if is_transposed else (ratios[0], ratios[1])

    @property
    def largest_stack(self) -> int:
        """The number of blocks of the largest stack in the model; 1 if there is none.

        Raises:
            ValueError: If the model seems to be a part of one whose depth was not given.
        """
        if not self.parents:
            return 1
        if self.depth is not None:
            return max(self.depth.values()) if isinstance(self.depth, Mapping) else self.depth
        self.require_place("largest_stack")
        return max((len(stack_blocks(m)) for m in self.parents[0].modules()), default=0) or 1

    def require_place(self, function: str) -> None:
        """Refuse a rule that depends on depth, if the place in the whole stack is not known.

        Args:
            function: What asks, for the message.

        Raises:
            ValueError: With the reason.
        """
        if self.cut:
            raise ValueError(
                f"initstats.{function}: expected depth= of the whole model (and names= where blocks"
                f" have other numbers in it), got a part of a model: {self.cut} ({self.name})"
            )

    def _stated(self, names: tuple[str, ...]) -> int | None:
        for module in reversed(self.parents):
            for name in names:
                value = module.__dict__.get(name)
                if isinstance(value, int) and not isinstance(value, bool):
                    return value
        return None


def slots(
    model: nn.Module,
    roles: Mapping[str, str] | None = None,
    *,
    names: Names | None = None,
    depth: Depth | None = None,
    base: Base | None = None,
    function: str = "plan",
    buffers: bool = False,
) -> list[tuple[Slot, ...]]:
    """List the parameters of a model, tied names together.

    Args:
        model: Any module, also on the meta device.
        roles: Roles by glob pattern on the name, for those that are not recognised well.
        names: Names in the whole model, of which this one is a part: see `global_names`.
        depth: Number of blocks of the whole, or such by glob pattern on the path of the stack.
        base: The model whose width this one's is compared with; None for itself.
        function: Public function on whose behalf this is done, for messages.
        buffers: List buffers too, each as a slot of its own.

    Returns:
        One tuple per distinct parameter, in the order of `named_parameters()`; each tuple has one
        slot per name of that parameter, so more than one when it is tied. Parameters that are
        views of exactly the same memory are tied too.

    Raises:
        TypeError: If names or depth is of another kind.
        ValueError: As `global_names` and `check_depth`, or if the depth does not fit the blocks.
    """
    check_depth(function, depth)
    modules = dict(model.named_modules(remove_duplicate=False))
    chains: dict[str, tuple[nn.Module, ...]] = {}
    held: dict[str, tuple[torch.Tensor, str]] = {}
    for path, module in modules.items():
        above = chains[path.rpartition(".")[0]] if path else ()
        chains[path] = (*above, module)
        for own_name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            held[f"{path}.{own_name}" if path else own_name] = parameter, path
    here = set(held)
    for path, module in modules.items() if buffers else ():
        for own_name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
            held.setdefault(f"{path}.{own_name}" if path else own_name, (buffer, path))
    stacks = _stacks(chains)
    full = global_names(function, list(held), names)
    groups: dict[object, list[Slot]] = {}
    for local, (parameter, path) in held.items():
        name, parents = full[local], chains[path]
        at = place(local, name, stacks, renamed=names is not None, depth=depth)
        role = recognise(name, parameter, parents, roles)
        slot = Slot(
            name=name,
            parameter=parameter,
            module=parents[-1],
            block=at.block,
            blocks=at.blocks,
            parents=parents,
            role=role,
            cut=at.cut,
            depth=depth,
            is_buffer=local not in here,
            base=base,
        )
        groups.setdefault((slot.is_buffer, _identity(parameter)), []).append(slot)
    return [_tied(group) for group in groups.values()]


def _tied(group: list[Slot]) -> tuple[Slot, ...]:
    """Tell the slots of one parameter the roles that it has under its other names."""
    if len(group) == 1:
        return tuple(group)
    names = [slot.role.name for slot in group]
    return tuple(
        replace(slot, tied_roles=(*names[:i], *names[i + 1 :])) for i, slot in enumerate(group)
    )


def stack_blocks(module: nn.Module) -> dict[str, nn.Module]:
    """Find the blocks of a stack: children of one class through which the signal passes in turn.

    Args:
        module: Any module; a `ModuleList` or a `Sequential` can be a stack, and a `ModuleDict`
            whose names are numbers (torchtitan's layers).

    Returns:
        The longest run of neighbours of one class, by their names in the container, if it is two
        or longer and is the whole container or of modules with children (so that equal layers
        among others are no blocks); all of a `ModuleList` of modules with children whose classes
        have a base of their own in common (hybrids: blocks of attention and of state spaces); a
        single module that fills a `ModuleList`; else nothing.
    """
    numbered = isinstance(module, nn.ModuleDict) and all(name.isdigit() for name in module)
    if not numbered and not isinstance(module, (nn.ModuleList, nn.Sequential)):
        return {}
    # Not named_children(), which leaves out a module that stands in several places.
    children = [(name, m) for name, m in vars(module)["_modules"].items() if m is not None]
    if isinstance(module, nn.ModuleList) and _are_kin([child for _, child in children]):
        return dict(children)
    runs = [list(run) for _, run in groupby(children, key=lambda child: type(child[1]))]
    longest = max(runs, key=len, default=[])
    whole = len(longest) == len(children)
    nested = any(True for _, child in longest for _ in child.children())
    if len(longest) > 1 and (whole or nested):
        return dict(longest)
    return dict(longest) if whole and not isinstance(module, nn.Sequential) else {}


def _are_kin(modules: list[nn.Module]) -> bool:
    """Tell whether modules of several classes have children, and a base that is not torch's."""
    kinds = {type(module) for module in modules}
    if len(kinds) < 2 or any(next(m.children(), None) is None for m in modules):  # noqa: PLR2004
        return False
    shared = set.intersection(*(set(kind.__mro__) for kind in kinds))
    return any(not base.__module__.startswith(("torch.", "builtins")) for base in shared)


def _identity(parameter: torch.Tensor) -> object:
    """Return the identity of a parameter: the object, or exactly the same memory.

    Of a DTensor the object: the address that it names is the place of the shard in what it was cut
    from, the same for all of one shape, and differs by rank.
    """
    if (
        is_dtensor(parameter)
        or parameter.is_meta
        or parameter.layout is not torch.strided
        or not parameter.numel()
    ):
        return id(parameter)
    try:
        place = parameter.data_ptr()
    except RuntimeError:  # a subclass without memory of its own
        return id(parameter)
    if not place:
        return id(parameter)
    shape = (tuple(parameter.shape), tuple(parameter.stride()))
    return (str(parameter.device), place, parameter.dtype, *shape)


def _stacks(chains: Mapping[str, tuple[nn.Module, ...]]) -> dict[str, Stack]:
    """Return the stacks of a model by path."""
    found = {}
    for path, parents in chains.items():
        blocks = list(stack_blocks(parents[-1]))
        if blocks:
            children = list(vars(parents[-1])["_modules"])
            found[path] = Stack(blocks, children, stated_depth(parents))
    return found
