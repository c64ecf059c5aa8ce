"""Files that version 0.1.0 wrote are read by every later version: receipts, an audit, a run.

Made on a CPU with torch 2.13.0: `init_(LSTM(8, 16), "lstm", seed=3)` and `init_(DemoGPT, "gpt2",
seed=0)`, three steps of `audit`, and four steps of a monitor with a window of 2.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from torch import nn

from initstats import Receipt, sinks
from initstats.auditing import load_report
from initstats.auditing.demo.model import DemoConfig, DemoGPT

SAVED = Path(__file__).parents[1] / "vectors/saved_0_1_0"
CONFIG = DemoConfig(vocabulary=32, context=8, layers=2, width=16, heads=2, batch=2)


def test_saved_receipts_make_and_check_the_same_weights() -> None:
    models = {"receipt_lstm": nn.LSTM(8, 16), "receipt_gpt2": DemoGPT(CONFIG)}
    for name, model in models.items():
        receipt = Receipt.load(SAVED / f"{name}.json")
        assert receipt.fingerprints
        assert receipt.check(model) != {}
        receipt.remake_(model)
        assert receipt.check(model) == {}
        assert receipt.to_dict() == json.loads((SAVED / f"{name}.json").read_text())


def test_a_saved_audit_is_read() -> None:
    saved = load_report(SAVED / "audit.json")
    (values,) = saved.reports.values()
    assert values["schema"] == "initstats.audit/2"
    names = {parameter["name"] for parameter in values["parameters"]}
    assert names == {name for name, _ in DemoGPT(CONFIG).named_parameters()}
    assert len(values["loss"]["values"]) == 3


def test_a_saved_run_is_read() -> None:
    rows = list(sinks.read_rows(SAVED / "run.jsonl"))
    assert [row.step for row in rows] == [2, 4]
    for row in rows:
        assert set(row.tables) == {"weights", "gradients", "activations", "updates"}
        weight = row.tables["weights"]["0.weight"]
        assert weight.count == 2 * 128
        assert math.isclose(weight.rms, math.sqrt(weight.l2**2 / weight.count), rel_tol=1e-6)
        assert torch.isfinite(torch.tensor(weight.quantile(0.5)))
