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
from initstats.monitoring.heat_map import draw_heat_map, not_finite_by_depth, scale_by_depth
from initstats.monitoring.report.page import run_page
from monitored import Kept, batch, small_model, wait_for

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


def test_a_cell_with_nan_is_marked_and_a_mask_is_not() -> None:
    """Gradients that are NaN, in part or all of them, are red in the page and the picture."""
    model, kept = nn.Sequential(nn.Linear(8, 8), nn.Identity(), nn.Linear(8, 4)), Kept()
    with Monitor(model, every=1, sinks=[kept]) as monitor:
        model[1].register_forward_hook(
            lambda _m, _x, y: y.masked_fill(torch.eye(5, 8) > 0, -math.inf), prepend=True
        )
        for factor in (1.0, math.nan, 1.0):
            model.zero_grad()
            (model[2](model[0](batch(0))).square().mean() * factor).backward()
            with torch.no_grad():
                model[0].weight.grad[0, 0] = 1.0  # the rest is NaN in the second step
            model(batch(0))
            monitor.step()
            wait_for(kept, len(kept.rows) + 1)
    names, _ = scale_by_depth(kept.rows, "gradients", "rms")
    marked = not_finite_by_depth(kept.rows, "gradients", names)
    assert names == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert marked.tolist() == [[False, True, False]] * 4
    masked = kept.rows[0].tables["activations"]["1"]
    assert masked.neg_inf > 0
    names, _ = scale_by_depth(kept.rows, "activations", "rms")
    assert not not_finite_by_depth(kept.rows, "activations", ["1"]).any()
    page = run_page(kept.rows, "run")
    assert page.count("NaN or infinity from step 2") >= 4
    (gradients,) = re.findall(r"gradients by depth and time</h3>(.*?)</figure>", page, re.DOTALL)
    (outline,) = re.findall(r'fill="#b3221a" d="([^"]+)"', gradients)
    assert outline.count("M") == 4


def test_a_linear_heat_map_shows_0_and_what_is_below() -> None:
    values = np.array([[-1.0, 0.0, 1.0, math.nan]])
    drawn = heat_map("t", "a", ["p"], [1, 2, 3, 4], values, linear=True)
    assert drawn.ends == ("-1", "1")
    assert sum(outline.count("M") for _, outline in drawn.paths) == 3
    assert dict(drawn.paths)[drawn.COLOURS[0]].count("M") == 1
    red = heat_map("t", "a", ["p"], [1, 2], np.full((1, 2), math.nan), marked=[[True, False]])
    assert [colour for colour, _ in red.paths] == ["#b3221a"]


@pytest.mark.parametrize("kind", ["gradients", "calls", "momentum_cosine"])
def test_plot_draws_kinds_of_one_number_and_what_is_not_finite(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("matplotlib")
    model, kept = small_model(), Kept()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    kinds = ("weights", "gradients", "activations", "momentum_cosine")
    with Monitor(model, optimizer=optimizer, every=1, watch=kinds, sinks=[kept]) as monitor:
        (model(batch(0)).mean() * math.nan).backward()
        optimizer.step()
        monitor.step()
    draw_heat_map(kept.rows, tmp_path / "a.png", kind=kind)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


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
