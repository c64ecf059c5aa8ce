"""Every distribution has all of its parts: what is missing is named, and what adds it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import exact_distributions
import golden
import initstats
from initstats.init import random
from initstats.init._distributions import DISTRIBUTIONS, Family
from initstats.patch import bodies

ROOT = Path(__file__).resolve().parents[2]
LABELS = [(family, label) for family in DISTRIBUTIONS for label in family.examples]
KEYWORDS = ("generator", "seed", "name", "names", "box", "boxes")


def native() -> dict[str, tuple[str, ...]]:
    """Return the ops that csrc/math/random/distributions.h lists, with their parameters."""
    found = {}
    for name in torch._C._dispatch_get_all_op_names():
        if name.startswith("initstats::"):
            arguments = torch._C._get_schema(name, "").arguments
            kinds = {str(argument.type) for argument in arguments[2:-1]}
            if arguments[1:] and arguments[1].name == "keys" and kinds == {"List[float]"}:
                parameters = tuple(argument.name for argument in arguments[2:-1])
                found[name.removeprefix("initstats::")] = parameters
    return found


def own_parameters(function: object) -> dict[str, object]:
    """Return the parameters of a public function besides the tensors and where keys come from."""
    assert callable(function)
    _, *rest = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in rest if p.name not in KEYWORDS}


def lacks_in_its_entry(family: Family) -> Iterator[str]:
    name, short = family.name, family.name.removesuffix("_")
    if native().get(name) != family.parameters:
        yield (
            f"the parameters {family.parameters} in initstats/init/_distributions.py are not those"
            f" of csrc/math/random/distributions.h, {native().get(name)}"
        )
    if [*family.examples][:1] != [short] or any(
        not label.startswith(short) or len(numbers) != len(family.parameters)
        for label, numbers in family.examples.items()
    ):
        yield f"no example {short!r} of all parameters in initstats/init/_distributions.py"
    if hasattr(torch.Tensor, name) and len(family.method) != len(family.parameters):
        yield f"torch.Tensor.{name} exists: give its words as `method` of the entry"
    if hasattr(torch.nn.init, name) and not hasattr(bodies, name):
        yield f"torch.nn.init.{name} exists: give it a body in initstats/patch/bodies.py"


def lacks_in_public(family: Family) -> Iterator[str]:
    for name in (family.name, f"foreach_{family.name}"):
        if not hasattr(random, name):
            yield f"no public function {name} in initstats/init/random.py"
        elif name not in initstats.init.__all__:
            yield f"{name} is not exported by initstats/init/__init__.py"
        elif tuple(own_parameters(getattr(random, name))) != family.parameters:
            yield f"{name} has other parameters than its entry, {family.parameters}"
        elif own_parameters(getattr(random, name)) != own_parameters(getattr(random, family.name)):
            yield f"{name} has other defaults than {family.name}"


def lacks_in_evidence(family: Family) -> Iterator[str]:
    rows = {golden.row(label, dtype) for label in family.examples for dtype in golden.DTYPES}
    if rows - set(golden.golden_hashes()):
        yield "no golden row; run `make golden`"
    if family.name not in exact_distributions.CDFS:
        yield "no distribution function in CDFS of tests/support/exact_distributions.py"
    if f"`{family.name}(" not in "".join(p.read_text() for p in (ROOT / "docs").rglob("*.md")):
        yield f"no row `{family.name}(...)` in the table of fills of the documentation"
    if f"`{family.name}`" not in (ROOT / "CHANGELOG.md").read_text():
        yield "no entry in CHANGELOG.md"


def test_every_distribution_has_all_of_its_parts() -> None:
    missing = [
        f"{name.removesuffix('_')}: no entry in DISTRIBUTIONS of initstats/init/_distributions.py"
        for name in native()
        if name not in {family.name for family in DISTRIBUTIONS}
    ]
    for family in DISTRIBUTIONS:
        for lacks in (lacks_in_its_entry, lacks_in_public, lacks_in_evidence):
            missing += [f"{family.name.removesuffix('_')}: {what}" for what in lacks(family)]
    assert missing == [], "\n".join(missing)


def test_every_golden_row_belongs_to_an_example() -> None:
    rows = {golden.row(label, dtype) for _, label in LABELS for dtype in golden.DTYPES}
    assert set(golden.golden_hashes()) - rows == set()


def test_golden_rows_are_added_and_never_changed(tmp_path: Path) -> None:
    path = tmp_path / "stream.txt"
    path.write_text(golden.VECTORS.read_text())
    golden.add_missing_rows(path)
    text = path.read_text()
    path.write_text("".join(text.splitlines(keepends=True)[:-1]))
    assert golden.add_missing_rows(path) == [text.splitlines()[-1].split()[0]]
    assert path.read_text() == text
    assert golden.add_missing_rows(path) == []
    other = re.sub(r"(?m)^(normal/float32) \w", r"\1 x", text)
    path.write_text(other)
    with pytest.raises(ValueError, match=r"^\[stream\] normal/float32: other bits than the golden"):
        golden.add_missing_rows(path)
    assert path.read_text() == other


@pytest.mark.parametrize("family", DISTRIBUTIONS, ids=lambda family: family.name)
def test_nan_is_refused_for_every_parameter(family: Family) -> None:
    fill = getattr(random, family.name)
    state = torch.get_rng_state()
    for numbers in family.examples.values():
        for i in range(len(numbers)):
            values = [*numbers[:i], float("nan"), *numbers[i + 1 :]]
            for dtype in golden.DTYPES:
                x = torch.zeros(3, dtype=dtype)
                with pytest.raises(ValueError, match=rf"initstats\.{family.name}: expected .*nan"):
                    fill(x, *values)
                assert not x.any()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("family", "label"), LABELS, ids=[label for _, label in LABELS])
def test_many_tensors_get_the_bits_of_one_by_one(
    family: Family, label: str, device: torch.device
) -> None:
    shapes = [(0,), (1,), (5, 7), (64,), (3, 3, 3), (4097,)]
    dtypes = golden.DTYPES
    together = [torch.empty(s, dtype=d, device=device) for s in shapes for d in dtypes]
    alone = [torch.empty_like(tensor) for tensor in together]
    names = [str(i) for i in range(len(together))]
    numbers = family.examples[label]
    foreach = getattr(random, f"foreach_{family.name}")
    foreach(together, *([number] * len(together) for number in numbers), seed=3, names=names)
    for tensor, name in zip(alone, names, strict=True):
        getattr(random, family.name)(tensor, *numbers, seed=3, name=name)
    for a, b in zip(together, alone, strict=True):
        assert torch.equal(a, b)


def test_the_forms_for_many_tensors_are_documented_in_full() -> None:
    for family in DISTRIBUTIONS:
        text = inspect.getdoc(getattr(random, f"foreach_{family.name}")) or ""
        assert re.match(r"Fill many tensors with .*\.\n\nArgs:\n", text)
        for parameter in own_parameters(getattr(random, family.name)):
            assert re.search(rf"\n    {parameter}: One for all tensors or one per", text)
        for part in ("Raises:", "Determinism: bitwise", "Source:"):
            assert f"\n{part}" in text


def test_an_op_that_is_not_built_is_named_with_the_place_to_add_it() -> None:
    with pytest.raises(ImportError, match=r"expected an op nothing_ in .*_C.*distributions\.h"):
        initstats._ops.fill_op("nothing_")
