"""Find what a loss depends on and that is no parameter of the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

_DEEPEST = 3  # containers inside containers


def unregistered(loss: Tensor, model: nn.Module, known: set[int]) -> tuple[str, ...]:
    """Return what backward reaches and that neither the model nor others know.

    Modules in a plain list or dictionary are such, and tensors of a module that require a gradient
    and are no parameters, and layers that are made anew in every forward pass.

    Args:
        loss: The loss, with its graph.
        model: The model.
        known: Identities of further tensors that may be reached: of the batch, of the optimizer.

    Returns:
        Paths of the attributes that hold them, or their shapes where no attribute does.
    """
    known = known | {id(p) for p in model.parameters()}
    leaves = {id(x): x for x in _leaves(loss) if id(x) not in known}
    if not leaves:
        return ()
    names = {id(x): path for path, x in _held(model) if id(x) in leaves}
    found = []
    for key, x in leaves.items():
        if key in names:
            found.append(names[key])
        elif isinstance(x, nn.Parameter):
            found.append(f"a parameter of shape {list(x.shape)}")
    return tuple(found)


def _leaves(loss: Tensor) -> Iterator[Tensor]:
    """Yield the tensors into which backward would write a gradient."""
    waiting, seen = [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor):
            yield variable
        waiting.extend(following for following, _ in node.next_functions)


def _held(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in attributes of all modules, and those of modules in plain containers."""
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if not attribute.startswith("_"):
                path = f"{name}.{attribute}" if name else attribute
                yield from _inside(path, value, _DEEPEST)


def _inside(path: str, value: Any, depth: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in a value, with their paths."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, nn.Module):
        yield from ((f"{path}.{name}", p) for name, p in value.named_parameters())
    elif depth and isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _inside(f"{path}[{i}]", item, depth - 1)
    elif depth and isinstance(value, Mapping):
        for key, item in value.items():
            yield from _inside(f"{path}[{key!r}]", item, depth - 1)
