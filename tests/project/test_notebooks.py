"""Notebooks: what a cell shows of a report or a table."""

from __future__ import annotations

import html
import re
from pathlib import Path

import torch
from torch import nn

import initstats
from initstats.auditing import compare_reports, load_report


def model() -> nn.Module:
    made = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    initstats.init_(made, "mlp", seed=0)
    return made


def test_tables_show_themselves_as_preformatted_text_without_scripts() -> None:
    net = model()
    shown = (
        initstats.stats(net),
        initstats.verify(net, "mlp"),
        initstats.plan(net, "mlp"),
        initstats.init_(net, "mlp", seed=0),
    )
    for each in shown:
        text = each._repr_html_()
        assert text.startswith("<pre")
        assert "weight" in re.sub(r"<[^>]+>", "", text)
        assert "<script" not in text
        assert "http" not in text


def test_names_are_text_in_a_notebook_too() -> None:
    net = nn.Module()
    net.register_parameter("<img src=x>", nn.Parameter(torch.ones(2)))
    shown = initstats.stats(net)._repr_html_()
    assert "<img" not in shown
    assert "&lt;img src=x&gt;" in shown


def test_a_report_shows_its_page_in_a_frame(tmp_path: Path) -> None:
    torch.manual_seed(0)
    batch = torch.randn(32, 8), torch.randint(4, (32,))
    report = initstats.audit(model(), batch, loss_fn=nn.functional.cross_entropy, steps=2)
    report.save(tmp_path, plot=False)
    saved = load_report(tmp_path)
    for each in (report, saved, compare_reports(report, saved)):
        frame = each._repr_html_()
        (quoted,) = re.findall(r'^<iframe srcdoc="([^"]*)" sandbox="allow-scripts" ', frame)
        page = html.unescape(quoted)
        assert "Content-Security-Policy" in page
        assert "<script>" in page
