"""The layer rules, held by reading the sources: includes, imports, names, docstrings, stems."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import initstats
from initstats import _public

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("csrc", "initstats", "tests", "benchmarks", "docs")
CODE = {".py", ".pyi", ".h", ".cuh", ".cpp", ".cu", ".sh"}
PROSE = {".md", ".toml", ".yaml", ".json", ".in", ""}

STANDARD = r"[a-z_0-9]+"  # a header of the C++ standard library has no dot
INTRINSICS = r"[ei]mmintrin\.h|arm_neon\.h"
TORCH_STABLE = r"torch/csrc/(stable|inductor/aoti_torch/c)/.*|torch/headeronly/.*"
# What the files of each layer may include, as patterns of the whole name.
INCLUDES = {
    "math": ("math/.*", STANDARD, INTRINSICS),
    "cpu": ("cpu/.*", "math/.*", STANDARD, INTRINSICS),
    "cuda": (
        "cuda/.*",
        "math/.*",
        STANDARD,
        r"cuda_(runtime|runtime_api|fp16|bf16|fp8)\.h|cub/.*",
        r"cuda_on_cpu\.h",  # the executor of tests/cuda_on_cpu, when g++ compiles the kernels
    ),
    "ops": (
        "ops/.*",
        r"(cpu|cuda)/[a-z0-9_/]+\.h",
        "math/.*",
        STANDARD,
        TORCH_STABLE,
        r"pybind11/.*|Python\.h|dlfcn\.h|sys/mman\.h|cuda_runtime_api\.h",
    ),
}
CATCH_ALL_NAMES = {"util", "utils", "common", "helper", "helpers", "misc", "shared", "core"}


def sources(folder: str, *suffixes: str) -> list[Path]:
    paths = sorted((ROOT / folder).rglob("*"))
    return [path for path in paths if path.suffix in suffixes and "__pycache__" not in path.parts]


def cpp_files() -> list[Path]:
    return sources("csrc", ".h", ".cuh", ".cpp", ".cu")


def code_files() -> list[Path]:
    found = [path for folder in FOLDERS for path in sources(folder, *CODE)]
    return [*found, ROOT / "setup.py", ROOT / "Makefile"]


def text_files() -> list[Path]:
    found = [
        path for folder in FOLDERS for path in sources(folder, *CODE, *PROSE) if path.is_file()
    ]
    top = [path for path in ROOT.iterdir() if path.is_file() and path.suffix in CODE | PROSE]
    return [*found, *top, *(ROOT / ".ci").glob("*")]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def without_comments(text: str) -> str:
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)


# ---- includes


@pytest.mark.parametrize("layer", INCLUDES)
def test_a_layer_includes_only_what_it_may(layer: str) -> None:
    allowed = re.compile("|".join(f"(?:{pattern})" for pattern in INCLUDES[layer]))
    files = [path for path in cpp_files() if path.relative_to(ROOT / "csrc").parts[0] == layer]
    assert files
    wrong = [
        f"{relative(path)} includes {name}"
        for path in files
        for name in re.findall(
            r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE
        )
        if not allowed.fullmatch(name)
    ]
    assert wrong == []


def test_all_native_code_lives_in_a_layer() -> None:
    layers = {path.relative_to(ROOT / "csrc").parts[0] for path in cpp_files()}
    assert layers == set(INCLUDES)


def test_only_the_module_file_knows_pybind11() -> None:
    users = [relative(path) for path in cpp_files() if "pybind11" in path.read_text()]
    assert users == ["csrc/ops/module.cpp"]


def test_math_is_headers_only() -> None:
    assert {path.suffix for path in sources("csrc/math", *CODE)} == {".h"}


def test_kernels_are_launched_through_the_launch_template() -> None:
    launching = [
        relative(path) for path in cpp_files() if "<<<" in without_comments(path.read_text())
    ]
    assert launching == []


def test_python_reaches_the_ops_through_one_file() -> None:
    users = [
        relative(path)
        for path in sources("initstats", ".py")
        if re.search(r"torch\.ops\.initstats|import _C\b|initstats\._C", path.read_text())
    ]
    assert users == ["initstats/_ops.py"]


# ---- names


def test_kernels_end_in_kernel() -> None:
    pattern = re.compile(
        r"__global__\s+void\s+(?:__launch_bounds__\s*\((?:[^()]|\([^()]*\))*\)\s*)?(\w+)"
    )
    texts = [without_comments(path.read_text()) for path in sources("csrc/cuda", ".cu", ".cuh")]
    names = [name for text in texts for name in pattern.findall(text)]
    assert len(names) == sum(text.count("__global__") for text in texts) > 0
    assert [name for name in names if not name.endswith("_kernel")] == []


def test_launchers_begin_with_launch_and_their_status_must_be_looked_at() -> None:
    pattern = re.compile(r"(\[\[nodiscard\]\]\s+)?cudaError_t\s+(\w+)\s*\(")
    texts = [without_comments(path.read_text()) for path in sources("csrc/cuda", ".h")]
    launchers = [match for text in texts for match in pattern.findall(text)]
    assert launchers
    assert [name for _, name in launchers if not name.startswith("launch_")] == []
    assert [name for nodiscard, name in launchers if not nodiscard] == []


def test_no_file_is_named_after_nothing_in_particular() -> None:
    named = [relative(p) for p in code_files() if CATCH_ALL_NAMES & set(p.stem.lower().split("_"))]
    assert named == []


def operations(folder: str, suffix: str) -> set[str]:
    """Return the stems of a layer's sources, without what follows the first underscore."""
    return {path.stem.split("_")[0] for path in sources(f"csrc/{folder}", suffix)}


def test_an_operation_has_one_stem_in_every_layer() -> None:
    cpu = operations("cpu", ".cpp") - {"dispatch"}
    assert cpu
    assert operations("cuda", ".cu") == cpu
    assert cpu <= operations("ops", ".cpp")
    for stem in sorted(cpu):
        assert list((ROOT / "tests").rglob(f"test_{stem}*.py")), stem
        assert list((ROOT / "benchmarks").glob(f"bench_{stem}*.py")), stem


# The file of each operation's public function, and the package of its folder in csrc.
PYTHON_FILES = {
    "dirac": "init/constant_fills.py",
    "fill": "init/random.py",
    "orthogonal": "init/orthogonal_fills.py",
    "slice": "statistics/slices.py",
    "sparse": "init/sparse_fills.py",
    "stats": "statistics/compute.py",
}


def test_every_operation_has_its_file_in_the_package_of_its_folder() -> None:
    packages = {"random": "init", "orthogonal": "init", "stats": "statistics"}
    for path in sources("csrc/cpu", ".cpp"):
        if path.parent.name != "simd":
            file = PYTHON_FILES[path.stem.split("_")[0]]
            assert (ROOT / "initstats" / file).exists(), f"{path.stem}: no {file}"
            assert file.startswith(f"{packages[path.parent.name]}/"), f"{path.stem}: {file}"


def test_an_operation_lives_in_the_same_folder_in_every_layer() -> None:
    places: dict[str, set[str]] = {}
    for layer in ("cpu", "cuda"):
        for path in sources(f"csrc/{layer}", ".cpp", ".cu"):
            if path.parent.name != "simd":
                places.setdefault(path.stem, set()).add(path.parent.name)
    assert {stem: found for stem, found in places.items() if len(found) > 1} == {}
    assert {name for found in places.values() for name in found} == {
        "random",
        "stats",
        "orthogonal",
    }


def public_functions() -> set[str]:
    """Return the names of the public functions of every package that has public names."""
    found: set[str] = set()
    for package in ("", ".init", *(f".{name}" for name in _public.LATE)):
        module = importlib.import_module(f"initstats{package}")
        found |= {n for n in module.__all__ if inspect.isfunction(getattr(module, n))}
    return found


def test_a_public_function_and_a_module_never_share_a_name() -> None:
    modules = {path.stem for path in sources("initstats", ".py")}
    modules |= {path.name for path in (ROOT / "initstats").rglob("*") if path.is_dir()}
    assert modules & public_functions() == set()


def test_few_modules_stand_outside_a_package() -> None:
    assert len(list((ROOT / "initstats").glob("*.py"))) <= 10


# ---- packages and what they import

# The packages of initstats in their one direction: each may import those of the rows before its
# own, and the others of its own row not at all.
ORDER = (
    ("_public",),
    ("untrusted",),
    ("_ops", "text", "checkpoints"),
    ("sharding",),
    ("init", "statistics"),
    ("patch", "recipes"),
    ("planning",),
    ("verification",),
    ("drawing",),
    ("diagnostics",),
    ("auditing", "monitoring"),
    ("coordinates",),
    ("sinks",),
    ("integrations",),
    ("cli",),
    ("__main__",),  # `python -m initstats`
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports() -> dict[str, set[str]]:
    """Return by module what it imports of initstats, late and for types alone included."""
    modules = {module_name(path): path for path in sources("initstats", ".py")}
    found: dict[str, set[str]] = {name: set() for name in modules}
    for name, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                assert node.level == 0, f"{name}: a relative import"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                names = [one if one in modules else str(node.module) for one in names]
            else:
                continue
            found[name] |= {one for one in names if one in modules and one != name}
    return found


def test_packages_import_in_one_direction() -> None:
    place = {package: i for i, row in enumerate(ORDER) for package in row}
    wrong = []
    for name, targets in imports().items():
        if name == "initstats":
            continue
        own = name.split(".")[1]
        for target in targets - {"initstats"}:
            package = target.split(".")[1]
            if package != own and place[package] >= place[own]:
                wrong.append(f"{name} imports {target}")
    assert sorted(wrong) == []


def test_no_module_imports_itself_in_a_circle() -> None:
    # A package's __init__ only collects names; what imports it depends on all of its modules.
    graph = {name: targets - {"initstats"} for name, targets in imports().items()}
    del graph["initstats"]
    assert list(strongly_connected(graph)) == []


def strongly_connected(graph: dict[str, set[str]]) -> Iterator[list[str]]:
    """Yield the circles of a graph (Tarjan), as sorted lists of at least two names."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(name: str) -> Iterator[list[str]]:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(graph[name]):
            if target not in index:
                yield from visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            at = stack.index(name)
            circle = stack[at:]
            del stack[at:]
            if len(circle) > 1:
                yield sorted(circle)

    for name in sorted(graph):
        if name not in index:
            yield from visit(name)


# ---- first lines, docstrings


def test_the_first_line_of_a_file_says_what_lives_in_it() -> None:
    silent = []
    for path in code_files():
        lines = [line for line in path.read_text().splitlines() if line.strip()]
        first = next((line for line in lines if not line.startswith("#!")), None)
        if first is not None and not re.match(r'//+ \S|#+ \S|r?"""\S', first):
            silent.append(relative(path))
    assert silent == []


def public_objects() -> Iterator[tuple[str, object]]:
    """Yield the public names, and the public methods and properties of public classes."""
    for name in initstats.__all__:
        value = getattr(initstats, name)
        if isinstance(value, (str, int, float)):
            continue
        yield name, value
        if inspect.isclass(value):
            for attribute, member in vars(value).items():
                is_code = inspect.isfunction(member) or isinstance(
                    member, (property, classmethod, staticmethod)
                )
                if is_code and not attribute.startswith("_"):
                    yield f"{name}.{attribute}", member


def test_every_public_name_is_documented() -> None:
    names = dict(public_objects())
    assert names
    assert [name for name, value in names.items() if not inspect.getdoc(value)] == []


def test_every_public_function_states_its_determinism() -> None:
    functions = {name: f for name, f in public_objects() if inspect.isfunction(f)}
    fills = {name: f for name, f in functions.items() if name.endswith("_")}
    assert fills
    stated = re.compile(r"Determinism:\s+(bitwise|run_to_run|not_guaranteed)\b")
    assert [name for name, f in fills.items() if not stated.search(inspect.getdoc(f) or "")] == []


# ---- nothing refers to the machine that it was written on


def test_no_text_names_a_folder_of_one_machine() -> None:
    # Absolute paths of two parts or more; those that many machines share are fine.
    absolute = re.compile(r"(?<![\w.$})\]/:~<*-])/[a-z][\w.-]*/[\w.*-]+")
    everywhere = ("/usr/", "/dev/", "/proc/", "/tmp/", "/bin/", "/etc/", "/sys/")
    found = [
        f"{relative(path)}: {match}"
        for path in text_files()
        for match in absolute.findall(path.read_text())
        if not match.startswith(everywhere)
    ]
    assert found == []


def test_no_text_points_to_files_or_registries_outside() -> None:
    outside = re.compile(r"file:/{2}\S+|\.\./shared\b|--(?:extra-)?index-url\S*|--find-links\S*")
    found = [
        f"{relative(path)}: {match}"
        for path in text_files()
        if path != Path(__file__)
        for match in outside.findall(path.read_text())
    ]
    assert found == []
