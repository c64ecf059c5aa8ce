"""The documentation site: built without a warning, complete, linked, and at home on a disk."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

import initstats
from chromium import Tab, require_chromium, running

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "init",
    "patch",
    "statistics",
    "recipes",
    "planning",
    "verification",
    "auditing",
    "coordinates",
    "monitoring",
    "sinks",
)
# What a browser loads by itself, as opposed to links that a reader follows.
LOADED = re.compile(
    r"<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc=\"([^\"]*)\""
    r"|<link\b(?![^>]*rel=\"(?:index|search|next|prev|canonical)\")[^>]*\bhref=\"([^\"]*)\""
    r"|url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)"
)
SECONDS = 30.0  # for a page to search


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    (options,) = re.findall(r"-m sphinx (.*) docs build/docs$", makefile(), re.MULTILINE)
    assert "--fail-on-warning" in options
    command = [sys.executable, "-m", "sphinx", *options.split()]
    command += ["--doctree-dir", str(folder / "doctrees"), "docs", str(folder / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


def makefile() -> str:
    return (ROOT / "Makefile").read_text()


@cache
def text(path: Path) -> str:
    return path.read_text()


def pages(site: Path) -> list[Path]:
    found = sorted(site.rglob("*.html"))
    assert len(found) > 70
    return found


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    documented = {
        name
        for page in (site / "reference").glob("*.html")
        for name in re.findall(r'id="(initstats[\w.]*)"', text(page))
    }
    expected = {f"initstats.{name}" for name in initstats.__all__}
    for package in PACKAGES:
        module = importlib.import_module(f"initstats.{package}")
        # What two packages offer is on the page of the one that claims it.
        expected |= {
            f"{getattr(getattr(module, name), '__module__', module.__name__)}.{name}"
            if isinstance(getattr(module, name), type)
            else f"{module.__name__}.{name}"
            for name in module.__all__
            if name not in initstats.__all__
        }
    modules = {f"initstats.{name}" for name in initstats.__all__ if is_module(name)}
    assert expected - modules - documented == set()


def is_module(name: str) -> bool:
    return inspect.ismodule(getattr(initstats, name))


def test_every_file_of_results_has_its_table(site: Path) -> None:
    page = text(site / "measurements.html")
    for path in (ROOT / "benchmarks/results").glob("*.json"):
        assert f"<h2>{path.stem}" in page


def test_links_lead_to_pages_and_places_that_exist(site: Path) -> None:
    broken = []
    for page in pages(site):
        for target in re.findall(r'<a\b[^>]*\bhref="([^"]*)"', text(page)):
            if "://" in target or target.startswith("mailto:"):
                continue
            path, _, place = unquote(target).partition("#")
            file = (page.parent / path).resolve() if path else page
            if not file.exists() or (
                place and file.suffix == ".html" and f'id="{place}"' not in text(file)
            ):
                broken.append(f"{page.relative_to(site)}: {target}")
    assert broken == []


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    elsewhere = []
    for file in (*pages(site), *sorted(site.rglob("*.css"))):
        for found in LOADED.findall(text(file)):
            (target,) = filter(None, found)
            if re.match(r"(?:\w+:)?//", target):
                elsewhere.append(f"{file.relative_to(site)}: {target}")
    assert elsewhere == []


def test_a_browser_searches_from_disk_and_asks_the_network_for_nothing(
    site: Path, tmp_path: Path
) -> None:
    require_chromium()
    with running(tmp_path / "profile") as tab:
        tab.open((site / "index.html").as_uri())
        asked = tab.requests()
        tab.open(f"{(site / 'search.html').as_uri()}?q=orthogonal")
        wait_for_results(tab)
        results = tab.value("[...document.querySelectorAll('ul.search a')].map(a => a.href)")
        asked += tab.requests()
    assert any("orthogonal.html" in result for result in results)
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def wait_for_results(tab: Tab) -> None:
    end = time.monotonic() + SECONDS
    while not tab.value("document.querySelectorAll('ul.search a').length > 5"):
        assert time.monotonic() < end, "the search found nothing"
        time.sleep(0.1)
