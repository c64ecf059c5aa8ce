"""The audit: the files and the text it makes, and the demo."""

from __future__ import annotations

import doctest
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from audited_models import demo_batch, demo_gpt
from initstats.auditing import AuditReport, audit, load_report, runner
from initstats.auditing.demo.data import batch as text_batch
from initstats.auditing.demo.data import tokens
from initstats.auditing.report.depth_charts import shared_charts
from initstats.auditing.report.page import audit_page
from initstats.drawing.charts import Chart, Line, Mark
from initstats.drawing.png import draw_charts

SAVED = Path(__file__).parents[1] / "vectors/saved_0_1_0"

# --- report


def example() -> AuditReport:
    return audit(demo_gpt(), demo_batch(), steps=3, recipe="gpt2")


def test_a_report_is_strict_json_with_a_schema() -> None:
    values = json.loads(json.dumps(example().to_dict(), allow_nan=False))
    assert values["schema"] == "initstats.audit/2"
    assert values["ok"] is True
    assert values["settings"]["recipe"] == "gpt2"
    assert len(values["loss"]["values"]) == 3
    names = [layer["name"] for layer in values["layers"]]
    assert names.index("wte") < names.index("h.0") < names.index("h.1") < names.index("lm_head")
    assert values["series"] == [{"name": "h", "layers": ["h.0", "h.1", "h.2"]}]


def test_not_finite_numbers_become_strings_in_json() -> None:
    model, data = demo_gpt(), demo_batch()
    with torch.no_grad():
        model.ln_f.weight[0] = math.nan
    values = audit(model, data, steps=2).to_dict()
    text = json.dumps(values, allow_nan=False)
    assert json.loads(text)["loss"]["values"] == ["nan", "nan"]


def test_a_report_is_saved_as_json_and_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = example()
    files = report.save(tmp_path / "new" / "folder")
    assert [file.name for file in files] == ["index.html", "audit.json", "audit.png"]
    assert json.loads(files[1].read_text()) == json.loads(json.dumps(report.to_dict()))
    assert files[2].read_bytes().startswith(b"\x89PNG")
    bare = tmp_path / "no plot"
    assert report.save(bare, plot=False) == [bare / "index.html", bare / "audit.json"]


@pytest.mark.parametrize(("value", "words"), [(math.nan, "not-finite"), (0.0, "no findings")])
def test_what_a_logarithm_cannot_show_is_drawn_and_printed(
    value: float, words: str, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    model = demo_gpt()
    with torch.no_grad():
        model.wte.weight.fill_(value)  # at 0 no gradient passes the head, at first
    report = audit(model, demo_batch(), steps=2)
    report.save(tmp_path)
    assert words in str(report)


def test_a_missing_extra_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = example()
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ImportError, match=r"got matplotlib=missing; install initstats\[plot\]"):
        report.save(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_the_printed_report_shows_layers_losses_and_findings_in_80_columns() -> None:
    from initstats.text import render

    text = render(example(), width=80)
    assert max(map(len, text.splitlines())) <= 80
    for words in ("h.0.attn.c_attn", "h.2", "lm_head", "ln(64) = 4.159", "no findings"):
        assert words in text
    assert "…" not in text
    row = next(line for line in text.splitlines() if line.startswith("h.1.mlp.c_proj"))
    measured, promised = map(float, row.split()[1:3])
    assert promised == 0.0082
    assert measured == pytest.approx(promised, rel=0.05)


def test_a_report_of_version_0_1_0_prints_and_draws_as_if_just_measured(tmp_path: Path) -> None:
    saved = load_report(SAVED)
    page = saved.save_page(tmp_path / "new" / "page.html").read_text()
    text = str(saved)
    for name in ("h.0.mlp.c_fc", "lm_head"):
        assert f"\n{name}" in text
        assert f'data-name="{name}"' in page
    for words in ("audit of DemoGPT", "ln(32) = 3.466", "no findings"):
        assert words in text
    assert "Starts well" in page
    assert page.count("<circle") > 50


def test_a_saved_report_prints_as_the_live_one(tmp_path: Path) -> None:
    model = demo_gpt()
    with torch.no_grad():
        model.h[1].mlp.c_fc.weight[0, 0] = math.nan
    batch = demo_batch()
    for report in (example(), audit(model, batch, steps=2)):
        report.save(tmp_path, plot=False)
        assert str(load_report(tmp_path)) == str(report)


# --- pictures


def drawn_panels(charts: list[Chart], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The panels that matplotlib draws."""
    figure = pytest.importorskip("matplotlib.figure").Figure
    panels: list[Any] = []

    def keep(self: Any, _path: Path) -> None:
        self.canvas.draw()
        panels.extend(self.axes)

    monkeypatch.setattr(figure, "savefig", keep)
    draw_charts(charts, "heading", Path("unused.png"))
    return panels


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    return example().to_dict()


def with_losses(values: dict[str, Any], losses: list[float]) -> dict[str, Any]:
    return {**values, "loss": {**values["loss"], "values": losses}}


@pytest.mark.parametrize(
    ("losses", "scale"),
    [
        ([4.0, 3.0, 2.0], "linear"),
        ([4.0, 1.0, 0.2], "log"),  # between 10 and 100 the page and the PNG used to differ
        ([400.0, 3.0, 1.0], "log"),
        ([-1.0, -2.0, -3.0], "linear"),
        ([1.0, 0.0, -9.0], "linear"),
        ([math.nan, math.inf, 2.0], "linear"),
        ([math.nan, math.nan], "linear"),
    ],
)
def test_the_page_and_the_png_draw_losses_on_one_scale(
    losses: list[float], scale: str, measured: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = {"a": with_losses(measured, losses), "b": with_losses(measured, losses[::-1])}
    charts = shared_charts(reports)
    panel = drawn_panels(charts, monkeypatch)[2]
    svg = audit_page(reports).partition('aria-labelledby="all-c2-h')[2].partition("</svg>")[0]
    on_page = re.findall(r'class="tick" x="51".*?>(.*?)<', svg)
    assert panel.get_yscale() == scale
    assert [tick.get_text() for tick in panel.get_yticklabels()] == on_page
    low, high = panel.get_ylim()
    assert (low, high) == (charts[2].axes.low, charts[2].axes.high)
    assert all(low < y < high for y in (*losses, measured["loss"]["expected"]) if math.isfinite(y))


def test_ticks_of_nearly_equal_values_are_told_apart() -> None:
    marks = [Mark(float(i), 1.388 + i / 10_000, "") for i in range(3)]
    texts = [text for _, text in Chart("", "", [Line("", marks, 1)], False, "").axes.y_ticks]
    assert len(texts) == len(set(texts)) > 2
    assert "1.38820" in texts


def test_the_png_takes_labels_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    marks = [Mark(0.0, 1.0, ""), Mark(1.0, math.nan, ""), Mark(2.0, 0.0, "")]
    lines = [Line("_a $x^ $", marks, 1), Line("b_$", marks, 2)]
    (panel,) = drawn_panels([Chart("$\\bad$", "", lines, True, "$_$")], monkeypatch)
    shown = [text.get_text() for text in panel.get_legend().get_texts()]
    assert shown == [r" _a \$x^ \$", r"b_\$"]
    crosses = [line for line in panel.lines if line.get_marker() == "x"]
    assert [cross.get_ydata()[0] > 0.5 for cross in crosses] == [True, False] * 2


def test_the_examples_of_the_docstrings_run() -> None:
    failures, examples = doctest.testmod(runner)
    assert (failures, examples > 0) == (0, True)


# --- demo


def test_the_text_is_english_and_the_batch_is_shifted_by_one() -> None:
    stream = tokens(2048)
    assert len(stream) > 50_000
    assert int(stream.max()) == 2047
    unknown = float((stream == 0).double().mean())
    assert unknown < 0.05
    inputs, targets = text_batch(2048, 16, 4, seed=0)
    assert inputs.shape == targets.shape == (4, 16)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert torch.equal(inputs, text_batch(2048, 16, 4, seed=0)[0])
    assert not torch.equal(inputs, text_batch(2048, 16, 4, seed=1)[0])


def test_gpt2_of_transformers_is_healthy() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_layer=3,
        n_embd=64,
        n_head=2,
        vocab_size=512,
        n_positions=64,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config)
    ids = torch.randint(512, (2, 32))
    report = audit(model, {"input_ids": ids, "labels": ids}, steps=5, recipe="gpt2")
    assert report.findings == ()
    assert report.loss.expected == pytest.approx(math.log(512))
    assert report.evidence.series[0].name == "transformer.h"
