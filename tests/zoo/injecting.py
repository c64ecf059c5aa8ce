"""Ways to make a healthy specimen sick. Each returns a function that changes a specimen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from initstats.auditing import Finding
from zoo.specimens import Specimen, Stepper

Injection = Callable[[Specimen], Specimen]
ANYWHERE = "*"


@dataclass(frozen=True)
class Fault:
    """A fault, and what a good audit says about it: one of `rules`, at one of `places`."""

    name: str
    model: str
    inject: Injection
    rules: tuple[str, ...]
    places: tuple[str, ...]

    def named_by(self, finding: Finding) -> bool:
        """Tell whether a finding names the rule and the place."""
        return finding.rule in self.rules and any(self._at(finding.where, p) for p in self.places)

    @staticmethod
    def _at(where: str, place: str) -> bool:
        """Tell whether `where` is the place, inside it, or the layer that owns the parameter."""
        owner, _, leaf = place.rpartition(".")
        owns = leaf in ("weight", "bias") and where == owner
        inside = where.startswith((f"{place}.", f"{place} "))
        return place in (ANYWHERE, where) or inside or owns


def fault(name: str, model: str, inject: Injection, rules: str, places: str = ANYWHERE) -> Fault:
    """Make a fault; rules and places are separated by spaces."""
    return Fault(name, model, inject, tuple(rules.split()), tuple(places.split()))


def combined(*injections: Injection) -> Injection:
    """Inject one after the other."""

    def inject(specimen: Specimen) -> Specimen:
        for injection in injections:
            specimen = injection(specimen)
        return specimen

    return inject


def written(change: Callable[[Tensor], object], *names: str) -> Injection:
    """Change parameters in place, by full names."""

    def inject(specimen: Specimen) -> Specimen:
        with torch.no_grad():
            for name in names:
                change(specimen.model.get_parameter(name))
        return specimen

    return inject


def everywhere(
    change: Callable[[Tensor], object], *, ending: str = "", inside: str = "", matrices: bool = True
) -> Injection:
    """Change all matrices (or all parameters) whose name fits, in place."""

    def inject(specimen: Specimen) -> Specimen:
        chosen = [
            p
            for name, p in specimen.model.named_parameters()
            if name.endswith(ending) and inside in name and (p.dim() > 1 or not matrices)
        ]
        assert chosen
        with torch.no_grad():
            for parameter in chosen:
                change(parameter)
        return specimen

    return inject


def scaled(factor: float, *names: str) -> Injection:
    return written(lambda p: p.mul_(factor), *names)


def filled(value: float, *names: str) -> Injection:
    return written(lambda p: p.fill_(value), *names)


def random(std: float, *names: str) -> Injection:
    return written(lambda p: p.normal_(std=std), *names)


def replaced(make: Callable[[nn.Module], nn.Module], *names: str) -> Injection:
    """Put another module in the place of one."""

    def inject(specimen: Specimen) -> Specimen:
        for name in names:
            specimen.model.set_submodule(name, make(specimen.model.get_submodule(name)))
        return specimen

    return inject


def without(*names: str) -> Injection:
    return replaced(lambda _: nn.Identity(), *names)


def without_norms(specimen: Specimen) -> Specimen:
    """Take every norm out."""
    names = [n for n, m in specimen.model.named_modules() if "Norm" in type(m).__name__]
    return without(*names)(specimen)


def patched(change: Callable[[Any, Tensor], Any], *names: str) -> Injection:
    """Wrap the forward of modules: `change` gets the output and the first input."""

    def wrap(module: nn.Module) -> None:
        original = module.forward

        def forward(x: Tensor, *arguments: Any, **keywords: Any) -> Any:
            out = original(x, *arguments, **keywords)
            return (change(out[0], x), *out[1:]) if isinstance(out, tuple) else change(out, x)

        module.forward = forward  # type: ignore[method-assign]

    def inject(specimen: Specimen) -> Specimen:
        for name in names:
            wrap(specimen.model.get_submodule(name))
        return specimen

    return inject


def no_residual(*names: str) -> Injection:
    """Turn x + f(x) into f(x)."""
    return patched(lambda out, x: out - x, *names)


def detached(*names: str) -> Injection:
    return patched(lambda out, _: out.detach(), *names)


def stepping(**changes: Any) -> Injection:
    """Step with another optimizer or rate."""
    return lambda specimen: specimen.but(
        optimizer=Stepper(**{**specimen.optimizer.__dict__, **changes})
    )


def judged_by(loss: Callable[[Any, Any], Tensor]) -> Injection:
    return lambda specimen: specimen.but(loss=loss)


def with_recipe(name: str) -> Injection:
    return lambda specimen: specimen.but(recipe=name)


def fed(change: Callable[[Tensor], Tensor]) -> Injection:
    """Change the first tensor of the batch."""

    def inject(specimen: Specimen) -> Specimen:
        batch = specimen.batch
        if isinstance(batch, Tensor):
            return specimen.but(batch=change(batch))
        if isinstance(batch, dict):
            first = next(iter(batch))
            return specimen.but(batch={**batch, first: change(batch[first])})
        return specimen.but(batch=(change(batch[0]), *batch[1:]))

    return inject


class Reported(nn.Module):
    """A model of transformers whose own loss is changed before it is returned."""

    def __init__(self, model: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.change = change

    def forward(self, **batch: Tensor) -> Tensor:
        return self.change(self.model(**batch).loss)


def own_loss(change: Callable[[Tensor], Tensor]) -> Injection:
    return lambda specimen: specimen.but(model=Reported(specimen.model, change))


def as_type(dtype: torch.dtype) -> Injection:
    """Convert the model and the floating-point tensors of the batch."""

    def cast(value: Any) -> Any:
        return value.to(dtype) if value.is_floating_point() else value

    def inject(specimen: Specimen) -> Specimen:
        specimen.model.to(dtype)
        batch = specimen.batch
        if isinstance(batch, dict):
            return specimen.but(batch={name: cast(value) for name, value in batch.items()})
        return specimen.but(batch=tuple(cast(value) for value in batch))

    return inject
