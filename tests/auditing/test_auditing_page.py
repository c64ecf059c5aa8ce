"""The audit's page and audit.json, without a browser: schema, reader, escaping, no network."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from audited_models import demo_batch, demo_gpt
from initstats import stats
from initstats.auditing import AuditReport, audit, load_report
from initstats.auditing.demo.data import batch as text_batch
from initstats.auditing.demo.model import DemoConfig, DemoGPT
from initstats.auditing.demo.run import run_demo, save_demo
from initstats.auditing.report.page import audit_page
from initstats.auditing.report.schema import MOST_BARS, histogram_bars
from initstats.drawing.charts import short
from initstats.drawing.template import write_page
from initstats.text import render

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def healthy() -> AuditReport:
    return audit(demo_gpt(), demo_batch(), steps=3, recipe="gpt2")


# ---- audit.json


@pytest.mark.parametrize("scale", [0, 1, 2])
def test_bars_hold_every_finite_value_and_none_spans_both_signs(scale: int) -> None:
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(0)).exp()
    x[::2] *= -1
    x[:100] = 0
    x[100:103] = torch.tensor([torch.inf, -torch.inf, torch.nan])
    bars = histogram_bars(stats(x, scale=scale).histogram)
    assert 3 < len(bars) <= MOST_BARS
    assert [0.0, 0.0, 100] in bars
    finite = x[x.isfinite()].double().numpy()
    for low, high, count in bars:
        assert low * high >= 0
        inside = (
            (finite > low) & (finite <= high) if high > 0 else (finite >= low) & (finite < high)
        )
        assert count == (int((finite == 0).sum()) if low == high else int(inside.sum()))
    assert sum(bar[2] for bar in bars) == len(finite)
    assert bars == sorted(bars)


def test_bars_with_few_values_are_joined_first() -> None:
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    bars = histogram_bars(stats(x, scale=2).histogram, 16)
    assert len(bars) == 16
    assert max(bar[2] for bar in bars) < 0.2 * len(x)  # 1/16 each if it could be even


def test_the_rarest_neighbours_stay_apart_where_their_signs_differ() -> None:
    x = torch.tensor([-4.0] * 5 + [-1.0] * 5 + [-(2.0**-20), 2.0**-20] + [1.0] * 5 + [4.0] * 5)
    bars = histogram_bars(stats(x).histogram, 4)
    assert [bar[2] for bar in bars] == [5, 6, 6, 5]
    assert all(low * high >= 0 for low, high, _ in bars)


def test_records_of_the_file_have_a_histogram_or_say_that_there_is_none(
    healthy: AuditReport,
) -> None:
    values = healthy.to_dict()
    layer = next(layer for layer in values["layers"] if layer["name"] == "h.1.mlp.c_fc")
    for record in ("input", "activation", "output_gradient"):
        counts = [bar[2] for bar in layer[record]["histogram"]]
        assert sum(counts) == layer[record]["count"]
    parameter = next(p for p in values["parameters"] if p["name"] == "h.1.mlp.c_fc.weight")
    assert parameter["update"]["histogram"] is None
    assert sum(bar[2] for bar in parameter["weight"]["histogram"]) == np.prod(parameter["shape"])
    assert layer["units"][0]["units"] == parameter["shape"][0]
    assert layer["dtype"] == parameter["dtype"] == "float32"


def fields(values: Any) -> set[str]:
    """Every key of nested values."""
    if isinstance(values, dict):
        return set(values).union(*map(fields, values.values()))
    return set().union(*map(fields, values)) if isinstance(values, list) else set()


def test_every_field_of_the_schema_is_documented(healthy: AuditReport) -> None:
    text = (ROOT / "docs/guides/audit.md").read_text().partition("## audit.json")[2]
    values = healthy.to_dict()
    del values["weights"]  # `VerifyReport.to_dict`
    assert [name for name in sorted(fields(values)) if f"`{name}`" not in text] == []


def test_a_saved_report_is_read_back_from_its_file_or_folder(
    healthy: AuditReport, tmp_path: Path
) -> None:
    _page, file = healthy.save(tmp_path, plot=False)
    for path in (tmp_path, file, str(file)):
        saved = load_report(path)
        assert saved.path == file
        assert dict(saved.reports) == {"DemoGPT": json.loads(json.dumps(healthy.to_dict()))}


def test_a_saved_demo_is_read_back_by_label(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    config = DemoConfig(layers=3, width=32, batch=2, context=16)
    save_demo(run_demo("gpt2", steps=2, seed=0, config=config), tmp_path, seed=0)
    assert [*load_report(tmp_path).reports] == ["recipe gpt2", "torch default"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"schema": "initstats.audit/1"}',
            r"expected schema 'initstats.audit/2', got schema='ini",
        ),
        ('{"schema": "initstats.audit/3"}', r"got schema='initstats.audit/3' in .*; save it again"),
        ('{"schema": "initstats.demo/1", "reports": {"a": {}}}', r"got schema=None"),
        ("{}", r"got schema=None"),
        ("[1]", r"got schema=None"),
        ("no json", r"expected a JSON file, got path="),
    ],
)
def test_a_file_that_is_no_audit_of_this_schema_is_refused(
    content: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "audit.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_report(tmp_path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    message = r"initstats.load_report: expected an audit.json or its folder, got path=.*nowhere"
    with pytest.raises(FileNotFoundError, match=message):
        load_report(tmp_path / "nowhere")


def test_the_example_of_the_documentation_runs(tmp_path: Path) -> None:
    (code, *_) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs/guides/audit.md").read_text(), re.DOTALL
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", code]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=120)
    assert (tmp_path / "audit-second" / "index.html").exists()


# ---- page


def hostile() -> AuditReport:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
    model.add_module(HOSTILE, nn.Linear(8, 4))
    model.add_module('" onload="x', nn.Identity())
    with torch.no_grad():
        model[1].weight[0, 0] = torch.inf
    batch = torch.randn(4, 8), torch.randint(4, (4,))
    return audit(model, batch, loss_fn=nn.functional.cross_entropy, steps=2)


class Reader(HTMLParser):
    """Collects elements, attributes, and texts of style and script."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.inline: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(f"end of {tag}")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] in ("style", "script"):
            self.inline[self.tags[-1]] = self.inline.get(self.tags[-1], "") + data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def test_names_from_the_model_are_escaped_everywhere() -> None:
    page = audit_page({HOSTILE: hostile().to_dict(), "b": hostile().to_dict()}, title=HOSTILE)
    reader = read(page)
    assert reader.tags.count("script") == 1
    assert "alert(1)" not in reader.inline["script"]
    assert not [name for name, _ in reader.attributes if name.startswith("on") or name == "style"]
    assert ("data-name", HOSTILE) in reader.attributes
    assert ("data-name", '" onload="x') in reader.attributes


def test_the_page_allows_no_request_and_only_its_own_style_and_script(
    healthy: AuditReport,
) -> None:
    reader = read(audit_page({"a": healthy.to_dict()}))
    policy = next(v for _, v in reader.attributes if v is not None and "default-src" in v)
    assert "default-src 'none'" in policy
    for name in ("style", "script"):
        digest = hashlib.sha256(reader.inline[name].encode()).digest()
        assert f"{name}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    links = [v for name, v in reader.attributes if name in ("src", "href", "action", "xlink:href")]
    assert links
    assert all(link is not None and re.match(r"#|data:,$", link) for link in links)


def test_the_page_is_drawn_from_the_file_alone(healthy: AuditReport, tmp_path: Path) -> None:
    page, file = healthy.save(tmp_path, plot=False)
    assert page.read_text() == audit_page(load_report(file).reports)


def test_findings_stand_first_to_last_with_cause_fix_and_source() -> None:
    report = hostile()
    page = audit_page({"a": report.to_dict()})
    drawn = re.findall(r'<article class="finding (\w+)">.*?<h3>([\w-]+) at', page)
    assert drawn == [(f.severity, f.rule) for f in report.findings]
    assert "error" in re.findall(r'class="verdict (\w+)"', page)[0]
    assert report.findings[0].fix in page


def test_a_page_of_a_model_without_layers_or_with_odd_names_is_written(tmp_path: Path) -> None:
    batch = torch.randn(4, 8), torch.randint(4, (4,))
    report = audit(nn.Linear(8, 4), batch, loss_fn=nn.functional.cross_entropy, steps=1)
    page = audit_page({"a": report.to_dict()}, title="\ud800")
    write_page(tmp_path / "index.html", page)
    assert "Starts well" in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (float("nan"), "nan"),
        (-float("inf"), "-inf"),
        (0.001, "0.001"),
        (1e-5, "1e-5"),
        (0.0204, "0.0204"),
        (12345.0, "12345"),
        (1.25e7, "1.25e7"),
    ],
)
def test_numbers_on_the_page_are_short(value: float | None, text: str) -> None:
    assert short(value) == text


# ---- terminal


def test_deep_models_show_the_ends_and_what_a_finding_names_in_80_columns() -> None:
    config = DemoConfig(vocabulary=64, context=16, layers=12, width=32, heads=2, batch=2)
    torch.manual_seed(0)
    model = DemoGPT(config)
    with torch.no_grad():
        model.h[5].mlp.c_fc.weight.mul_(30)
    report = audit(model, text_batch(64, 16, 2, seed=0), steps=1)
    assert any(finding.where.startswith("h.5.") for finding in report.findings)
    text = render(report, width=80)
    table = text.partition("output max:")[0]
    assert max(map(len, text.splitlines())) <= 80
    for name in ("h.0.mlp.c_fc", "h.5.mlp.c_fc", "h.11.mlp.c_fc", "lm_head"):
        assert f"\n{name}" in table
    assert "\nh.3 " not in table
    assert "… 4 more blocks" in table
