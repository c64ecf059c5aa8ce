"""The page of a run, and what the plot draws: from rows, old files included."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from chromium import require_chromium, running
from initstats import sinks
from initstats.cli.application import app
from initstats.drawing.heat_maps import heat_map
from initstats.monitoring import Monitor
from initstats.monitoring.heat_map import scale_by_depth
from initstats.monitoring.report.page import run_page
from monitored import batch, small_model

OLD = Path(__file__).parents[1] / "vectors/saved_0_1_0/run.jsonl"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a run with clipping, alerts and something missing."""
    path = tmp_path_factory.mktemp("run") / "run.jsonl"
    model = small_model()
    model.add_module("<b>unused", nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    sink = sinks.JsonLines(path)
    with Monitor(model, optimizer=optimizer, every=1, sinks=[sink], held_bytes=1) as monitor:
        for i in range(12):
            optimizer.zero_grad()
            out = model[2](model[1](model[0](batch(i))))
            (out.square().mean() * (math.nan if i == 10 else 1.0)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.01)
            optimizer.step()
            monitor.step(loss=out.square().mean())
    return path


def test_the_page_shows_norms_updates_depth_alerts_and_what_is_missing(run: Path) -> None:
    rows = list(sinks.read_rows(run))
    page = run_page(rows, "run.jsonl")
    for words in (
        *("Loss", "Learning rate"),
        *("before clipping", "Clipped steps", "Update ratios", "new alerts"),
        *("weights by depth and time", "gradients by depth and time"),
        *("update ratio by depth and time", "not-finite", "no gradient", "&lt;b&gt;unused.weight"),
    ):
        assert words in page, words
    assert "<b>unused" not in page
    assert "http" not in page.replace("http-equiv", "")
    before = rows[2].gradient_norm_before_clipping[0]
    tips = re.findall(r"step 3\s*\n?before clipping: ([^\"]+)\"", page)
    assert float(tips[0]) == pytest.approx(before, rel=1e-2)


def test_old_files_make_a_page(tmp_path: Path) -> None:
    output = tmp_path / "old.html"
    done = CliRunner().invoke(app, ["report", str(OLD), "--output", str(output)])
    assert done.exit_code == 0, done.output
    assert "by depth and time" in output.read_text(encoding="utf-8")


def test_report_refuses_what_is_not_there(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("")
    for file, words in ((tmp_path / "no", "expected a file"), (empty, "at least one row")):
        done = CliRunner().invoke(app, ["report", str(file)])
        assert done.exit_code == 2
        assert words in " ".join(done.output.split())
    with pytest.raises(ValueError, match=r"initstats.report: expected at least one row, got none"):
        run_page([], "x")


def test_a_heat_map_keeps_the_largest_of_what_shares_a_cell() -> None:
    values = np.full((130, 1000), 1.0)
    values[7, 999] = 1e6
    values[50] = 0.0
    values[60, 3] = math.inf
    drawn = heat_map("t", "a", [f"p{i}" for i in range(130)], list(range(1000)), values)
    assert len(drawn.rows) <= drawn.MOST_ROWS
    assert drawn.ends == ("1", "1e6")
    colours = dict(drawn.paths)
    assert colours[drawn.COLOURS[-1]].count("M") == 1
    assert colours["#b3221a"].count("M") == 1
    assert drawn.rows[0][0] == "p0 and 2 more"


def test_plot_chooses_names_and_draws_update_ratios(run: Path) -> None:
    rows = list(sinks.read_rows(run))
    names, values = scale_by_depth(rows, "update_ratio", "rms", match=r"^\d.*weight$")
    assert names == ["0.weight", "2.weight"]
    assert values[0, 0] == rows[0].update_ratios()["0.weight"]
    with pytest.raises(ValueError, match=r"expected a name that matches, got none with match='x'"):
        scale_by_depth(rows, "weights", "rms", match="x")
    with pytest.raises(ValueError, match=r"expected a regular expression, got match='\('"):
        scale_by_depth(rows, "weights", "rms", match="(")
    pytest.importorskip("matplotlib")
    picture = run.with_name("p.png")
    arguments = ["--kind", "update_ratio", "--match", "weight", "--output", str(picture)]
    done = CliRunner().invoke(app, ["plot", str(run), *arguments])
    assert done.exit_code == 0, done.output
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_page_opens_in_a_browser_without_complaints_and_requests(
    run: Path, tmp_path: Path
) -> None:
    require_chromium()
    output = tmp_path / "run.html"
    CliRunner().invoke(app, ["report", str(run), "--output", str(output)])
    with running(tmp_path / "profile") as tab:
        tab.open(output.as_uri())
        assert tab.complaints() == []
        assert tab.requests() in ([], [output.as_uri()])
        assert tab.value("document.querySelectorAll('figure.chart svg').length") >= 6
        assert tab.value("document.documentElement.scrollWidth <= window.innerWidth")
