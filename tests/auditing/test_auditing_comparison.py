"""Two audits side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from audited_models import demo_batch, demo_gpt
from initstats.auditing import AuditReport, audit, compare_reports, load_report
from initstats.auditing.demo.model import DemoConfig
from initstats.auditing.demo.run import run_demo, save_demo
from initstats.text import render


@pytest.fixture(scope="module")
def pair() -> tuple[AuditReport, AuditReport]:
    model = demo_gpt()
    first = audit(model, demo_batch(), steps=2, recipe="gpt2")
    with torch.no_grad():
        model.h[1].mlp.c_fc.weight.mul_(4)
        model.h[1].mlp.c_fc.bias.zero_()
    model.lm_head.add_module("extra", nn.Identity())
    return first, audit(model, demo_batch(), steps=2, recipe="gpt2")


def test_layers_are_matched_by_name_and_ratios_are_second_by_first(
    pair: tuple[AuditReport, AuditReport],
) -> None:
    comparison = compare_reports(*pair)
    layers = {layer.name: layer for layer in comparison.layers}
    assert layers["h.0"].activation_ratio == layers["wte"].activation_ratio == 1
    assert layers["h.1.mlp.c_fc"].activation_ratio == pytest.approx(4, rel=0.01)
    turned = {layer.name: layer for layer in compare_reports(*reversed(pair)).layers}
    ratio = layers["h.1.mlp.c_fc"].gradient_ratio
    assert ratio is not None
    assert turned["h.1.mlp.c_fc"].gradient_ratio == pytest.approx(1 / ratio)


def test_findings_come_go_and_stay(pair: tuple[AuditReport, AuditReport]) -> None:
    def changes(first: AuditReport, second: AuditReport) -> set[tuple[str, str]]:
        return {(f.where, f.change) for f in compare_reports(first, second).findings}

    healthy, sick = pair
    place = "h.1.mlp.c_fc.weight"
    assert (place, "new") in changes(healthy, sick)
    assert (place, "gone") in changes(sick, healthy)
    assert (place, "stayed") in changes(sick, sick)
    assert compare_reports(sick, healthy).ok
    assert not compare_reports(healthy, sick).ok


def test_layers_of_one_side_only_are_listed() -> None:
    def report(*layers: nn.Module) -> AuditReport:
        torch.manual_seed(0)
        batch = torch.randn(8, 4), torch.randint(4, (8,))
        model = nn.Sequential(*layers)
        return audit(model, batch, loss_fn=nn.functional.cross_entropy, steps=1)

    short, long = report(nn.Linear(4, 4)), report(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    comparison = compare_reports(short, long)
    assert [layer.name for layer in comparison.layers] == ["0"]
    assert (comparison.only_first, comparison.only_second) == ((), ("1", "2"))
    assert "only in Sequential (second): 1, 2" in str(comparison)


def test_a_comparison_is_the_same_of_live_and_of_saved_reports(
    pair: tuple[AuditReport, AuditReport], tmp_path: Path
) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for report, folder in zip(pair, folders, strict=True):
        report.save(folder, plot=False)
    live = compare_reports(*pair).to_dict()
    assert compare_reports(*folders).to_dict() == live
    assert compare_reports(load_report(folders[0]), str(folders[1])).to_dict() == live


def test_the_demo_against_itself_is_its_first_report_against_its_second(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    config = DemoConfig(layers=3, width=32, batch=2, context=16)
    save_demo(run_demo("gpt2", steps=2, seed=0, config=config), tmp_path, seed=0)
    comparison = compare_reports(tmp_path, tmp_path)
    assert comparison.labels == ("recipe gpt2", "torch default")
    assert not comparison.ok


def test_it_is_saved_as_a_page_and_strict_json(
    pair: tuple[AuditReport, AuditReport], tmp_path: Path
) -> None:
    comparison = compare_reports(*pair)
    page, data = comparison.save(tmp_path / "new")
    values = json.loads(data.read_text())
    assert values == json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert values["schema"] == "initstats.comparison/1"
    assert "Layers side by side" in page.read_text()


def test_it_prints_in_80_columns(pair: tuple[AuditReport, AuditReport]) -> None:
    text = render(compare_reports(*pair), width=80)
    assert max(map(len, text.splitlines())) <= 80
    row = next(line for line in text.splitlines() if line.startswith("h.1.mlp.c_fc"))
    assert row.split()[3] == "4.00"
    assert "new    error weights-against-recipe at h.1.mlp.c_fc.weight" in text


def test_what_is_no_report_is_refused(pair: tuple[AuditReport, AuditReport]) -> None:
    message = "expected second to be a report or the path of one, got second=int"
    with pytest.raises(TypeError, match=f"initstats.compare_reports: {message}"):
        compare_reports(pair[0], 3)  # type: ignore[arg-type]
