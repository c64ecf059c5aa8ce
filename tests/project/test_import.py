"""What `import initstats` loads and offers, and under which names its classes are known."""

from __future__ import annotations

import importlib
import json
import pickle
import pickletools
import pkgutil
import shutil
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import initstats
from initstats import recipes
from initstats._public import LATE

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("init", "statistics", *LATE)
# Not before they are used: each takes longer than everything that `import initstats` loads.
LATER = {"rich", "jinja2", "typer", "matplotlib", "torch.distributed.tensor"}
NATIVE_OPS = {
    *("uniform_", "normal_", "trunc_normal_", "dirac_", "sparse_", "stats", "slice_stats"),
    *("square_ratio_stats", "copy_stats_"),
    *("reflectors_", "panel_factors", "small_orthogonal_"),
}
LOADED_AND_OPS = """
import json, sys, torch
before = set(sys.modules)
import initstats
names = torch._C._dispatch_get_all_op_names()
ops = sorted(name for name in names if name.startswith("initstats::"))
print(json.dumps([sorted(set(sys.modules) - before), ops]))
"""


def run(*arguments: str, folder: Path, code: int = 0) -> str:
    """Run a fresh Python in a folder, which is the first place that it imports from."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def fresh() -> tuple[set[str], set[str]]:
    """Modules that a fresh `import initstats` loads after torch, and the operators it leaves."""
    modules, ops = json.loads(run("-c", LOADED_AND_OPS, folder=ROOT))
    return set(modules), {op.removeprefix("initstats::") for op in ops}


def test_import_loads_fills_and_statistics_and_nothing_heavier(
    fresh: tuple[set[str], set[str]],
) -> None:
    modules, _ = fresh
    ours = {name.split(".")[1] for name in modules if name.startswith("initstats.")}
    assert ours == {"_C", "_ops", "_public", "init", "sharding", "statistics", "text"}
    assert [name for name in modules if name in LATER or name.split(".")[0] in LATER] == []


def test_import_registers_every_operator(fresh: tuple[set[str], set[str]]) -> None:
    for module in pkgutil.walk_packages(initstats.__path__, "initstats."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    names = torch._C._dispatch_get_all_op_names()  # type: ignore[attr-defined]
    every = {name.removeprefix("initstats::") for name in names if name.startswith("initstats::")}
    _, ops = fresh
    assert ops == every
    assert ops >= {*NATIVE_OPS, "fill_in_graph_", "orthogonal_in_graph_"}
    assert all(hasattr(torch.ops.initstats, name) for name in ops)


def test_dir_lists_all_names_and_each_can_be_had() -> None:
    listed = run("-c", "import initstats; print(*dir(initstats))", folder=ROOT).split()
    expected = {*initstats.__all__, *LATE, "__version__"}
    assert expected == {
        name for name in listed if name not in initstats.__dict__ or name[:2] != "__"
    } | {"__version__"}
    assert listed == sorted(listed)
    for name in listed:
        getattr(initstats, name)
    with pytest.raises(AttributeError, match="module 'initstats' has no attribute 'no_such_name'"):
        initstats.no_such_name  # type: ignore[attr-defined]  # noqa: B018


def test_late_names_are_those_of_their_package() -> None:
    for package, names in LATE.items():
        module = importlib.import_module(f"initstats.{package}")
        assert getattr(initstats, package) is module
        for name in names:
            assert getattr(initstats, name) is getattr(module, name)
            assert name in module.__all__


def test_type_checkers_know_the_names_and_refuse_others(tmp_path: Path) -> None:
    names = "\n".join(f"initstats.{name}" for name in (*initstats.__all__, "__version__"))
    (tmp_path / "good.py").write_text(f"import initstats\n{names}\n")
    (tmp_path / "attribute.py").write_text("import initstats\ninitstats.no_such_name\n")
    (tmp_path / "imported.py").write_text("from initstats import no_such_name\n")
    (tmp_path / "mypy.ini").write_text(
        f"[mypy]\nmypy_path = {ROOT}\nfollow_imports = silent\n"
        # Not read: that would take minutes, and only our own names are asked for.
        "[mypy-torch.*,numpy.*,rich.*,typer.*]\nfollow_imports = skip\n"
    )
    mypy = ("-m", "mypy", "--cache-dir=cache")
    run(*mypy, "good.py", folder=tmp_path)
    for file in ("attribute.py", "imported.py"):
        command = [sys.executable, *mypy, file]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert "no_such_name" in done.stdout
        assert "[attr-defined]" in done.stdout
        assert "Found 1 error" in done.stdout


def public_classes() -> dict[type, set[str]]:
    """Public classes, with the modules that offer them."""
    found: dict[type, set[str]] = {}
    for module in (initstats, *(getattr(initstats, package) for package in PACKAGES)):
        for name in module.__all__:
            value = getattr(module, name)
            if isinstance(value, type):
                found.setdefault(value, set()).add(module.__name__)
    return found


def test_public_classes_name_a_module_that_offers_them() -> None:
    classes = public_classes()
    assert len(classes) > 90
    for value, homes in classes.items():
        assert value.__module__ in homes
        assert ("initstats" in homes) == (value.__module__ == "initstats")
        assert getattr(sys.modules[value.__module__], value.__qualname__) is value
        assert pickle.loads(pickle.dumps(value)) is value


def test_annotations_of_public_classes_can_be_evaluated() -> None:
    """They are text, and name what the file that the class lives in has imported."""
    for value in public_classes():
        for hint in typing.get_type_hints(value).values():
            assert not isinstance(hint, str | typing.ForwardRef), value


def instances() -> list[Any]:
    """One of each public class that is cheap to make and can be pickled."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    stats = initstats.stats(x)
    receipt = initstats.init_(model, "mlp", seed=0)
    verified = initstats.verify(model, "mlp")
    report = initstats.audit(model, (x, x[:, :2]), loss_fn=nn.functional.mse_loss, steps=2)
    return [
        *(stats, initstats.stats(model), initstats.stats(x, dim=0), stats.histogram),
        *(*stats.histogram.buckets[:1], initstats.calculate_fan_in_and_fan_out(x)),
        *(initstats.Match("*weight"), recipes.Normal(1.0), recipes.Constant(1.0)),
        *(recipes.Uniform(0.0, 1.0), recipes.Orthogonal(2, 3), recipes.Kept("as it is")),
        *(receipt, verified, *verified.entries[:1], report, *report.layers[:1]),
        initstats.lsuv_(model, x),
    ]


def test_instances_of_public_classes_pickle_under_their_public_name() -> None:
    for value in instances():
        kind = type(value)
        data = pickle.dumps(value)
        texts = [argument for _, argument, _ in pickletools.genops(data)]
        assert kind.__module__ in texts, kind
        assert kind.__module__.count(".") < 2
        back = pickle.loads(data)
        assert type(back) is kind
        assert repr(back) == repr(value)
        if hasattr(value, "to_dict"):
            assert json.dumps(back.to_dict()) == json.dumps(value.to_dict())


def test_the_command_line_runs_as_a_module() -> None:
    assert "Usage" in run("-m", "initstats.cli", "--help", folder=ROOT)


def test_a_compiled_module_that_does_not_load_gives_the_reason_of_the_loader(
    tmp_path: Path,
) -> None:
    shutil.copytree(
        ROOT / "initstats", tmp_path / "initstats", ignore=shutil.ignore_patterns("*.so")
    )
    (tmp_path / "initstats/_C.so").write_bytes(b"no library")
    error = run("-c", "import initstats", folder=tmp_path, code=1)
    assert "invalid ELF header" in error or "file too short" in error
    assert "expected the compiled module" not in error
