"""Sinks: what is written reads back with the reader of each tool, and is what was measured."""

from __future__ import annotations

import io
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor
from typer.testing import CliRunner

from initstats import sinks
from initstats.cli.application import app
from initstats.diagnostics.findings import Finding
from initstats.monitoring import Monitor, Row
from initstats.monitoring.reader import read_window
from initstats.monitoring.window import Window
from monitored import Kept, batch, small_model, train


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Three rows of two steps each."""
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    kept = Kept()
    with Monitor(model, optimizer=optimizer, every=1, window=2, sinks=[kept]) as monitor:
        train(model, optimizer, monitor, 6)
    return kept.rows


def test_rows_read_back_from_json_as_they_were(rows: list[Row], tmp_path: Path) -> None:
    sink = sinks.JsonLines(tmp_path / "new/run.jsonl", sync=True)
    for row in rows:
        sink.write(row)
    sink.close()
    sink.close()
    back = list(sinks.read_rows(sink.path))
    assert len(back) == len(rows) == 3
    for a, b in zip(rows, back, strict=True):
        assert (a.step, a.steps, a.time, a.scalars()) == (b.step, b.steps, b.time, b.scalars())
        assert list(a.tables) == list(b.tables)
        for kind, table in a.tables.items():
            for name, record in table.items():
                assert record.to_dict() == b.tables[kind][name].to_dict()
            assert np.array_equal(table.high["rms"], b.tables[kind].high["rms"])
            assert np.array_equal(table.low["std"], b.tables[kind].low["std"], equal_nan=True)
    for line in sink.path.read_text().splitlines():
        json.loads(line, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))


def row_of(*tensors: Tensor) -> Row:
    """Return the row of a window in which these were the weights of a model, one at a time."""
    window = Window(histograms=True)
    for step, tensor in enumerate(tensors, 1):
        window.measure("weights", ("x", "y"), [tensor, -tensor[:1]], step)
        window.measure("gradients", ("x", "y"), [tensor, -tensor[:1]], step)
    window.first_step, window.last_step = 1, len(tensors)
    window.close()
    return read_window(window)[0]


ODD_TENSORS = {
    "nan": [torch.full((3,), math.nan)],
    "zeros": [torch.zeros(3)],
    "empty": [torch.empty(0)],
    "infinities": [torch.tensor([math.inf, -math.inf, math.inf])],
    "some of each": [torch.tensor([math.nan, 0.0, -math.inf, math.inf, 2.0, -1e-42])],
    "overflow": [torch.tensor([1e300, -1e300, 1e308], dtype=torch.float64)],
    "two steps": [torch.full((2,), math.nan), torch.tensor([math.inf, 1.0])],
    "two steps of zeros": [torch.zeros(1), torch.zeros(1)],
    "nothing measured": [],
}


@pytest.mark.parametrize("case", ODD_TENSORS)
def test_rows_of_odd_values_read_back_from_json_as_they_were(case: str, tmp_path: Path) -> None:
    texts = ("rule", "error", "x"), ("cause", "fix", "source")
    alerts = [
        Finding(*texts[0], value, limit, *texts[1], also=("y",))
        for value, limit in ((math.inf, -math.inf), (np.float32(0.5), 1.0))
    ]
    row = replace(row_of(*ODD_TENSORS[case]), alerts=tuple(alerts))
    sink = sinks.JsonLines(tmp_path / "run.jsonl")
    sink.write(row)
    sink.write(row)
    sink.close()
    for line in sink.path.read_text().splitlines():
        json.loads(line, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    rows = list(sinks.read_rows(sink.path))
    assert len(rows) == 2
    for back in rows:
        assert (back.step, back.steps, back.alerts) == (row.step, row.steps, row.alerts)
        assert np.array_equal(back.gradient_norm, row.gradient_norm, equal_nan=True)
        assert list(back.tables) == list(row.tables)
        for kind, table in row.tables.items():
            read = back.tables[kind]
            assert np.array_equal(read.records.moments, table.records.moments, equal_nan=True)
            assert np.array_equal(read.records.counts[:, :5], table.records.counts[:, :5])
            for mine, theirs in ((table.low, read.low), (table.high, read.high)):
                for name, column in mine.items():
                    assert np.array_equal(column, theirs[name], equal_nan=True)
            for name in table:
                assert read[name].histogram == table[name].histogram


def test_a_run_through_nan_and_zeros_keeps_every_row(tmp_path: Path) -> None:
    model, path = small_model(), tmp_path / "run.jsonl"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    factors = (1.0, 0.0, 1.0, math.nan, 1.0, 1.0, 1.0, 1.0)  # the fourth step ends the weights
    with Monitor(model, optimizer=optimizer, every=1, sinks=[sinks.JsonLines(path)]) as monitor:
        for i, factor in enumerate(factors):
            train(model, optimizer, monitor, 1, lambda _, i=i, f=factor: batch(i) * f)
    rows = list(sinks.read_rows(path))
    assert [row.step for row in rows] == list(range(1, 9))
    assert rows[1].tables["gradients"]["0.weight"].zero == 8 * 16
    assert rows[3].tables["gradients"]["0.weight"].nan == 8 * 16
    assert [math.isnan(row.gradient_norm[0]) for row in rows] == [False] * 3 + [True] * 5


def test_json_files_are_rotated_and_read_back_in_order(rows: list[Row], tmp_path: Path) -> None:
    sink = sinks.JsonLines(tmp_path / "run.jsonl", max_bytes=1, keep=2)
    for row in rows:
        sink.write(row)
    sink.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.jsonl", "run.jsonl.1", "run.jsonl.2"]
    assert [row.step for row in sinks.read_rows(sink.path)] == [2, 4, 6]
    sink.write(rows[0])
    assert [row.step for row in sinks.read_rows(sink.path)] == [4, 6, 2]
    sink.close()


@pytest.mark.parametrize("arguments", [{"max_bytes": 0}, {"keep": 0}])
def test_wrong_json_arguments_are_refused(arguments: dict[str, int], tmp_path: Path) -> None:
    (name,) = arguments
    message = f"initstats.sinks.JsonLines: expected {name} >= 1, got {name}=0"
    with pytest.raises(ValueError, match=message):
        sinks.JsonLines(tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_scalars_and_histograms(rows: list[Row], tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    sink = sinks.TensorBoard(tmp_path)
    for row in rows:
        sink.write(row)
    sink.close()
    events = accumulator.EventAccumulator(str(tmp_path), size_guidance={"histograms": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("initstats/gradient_norm")] == [2, 4, 6]
    record = rows[2].tables["gradients"]["0.weight"]
    found = events.Histograms("gradients/0.weight")[2].histogram_value
    assert found.num == record.count
    assert found.min == pytest.approx(record.min)
    assert found.sum_squares == pytest.approx(record.l2**2)
    assert sum(found.bucket) == record.count
    ours = {bucket.high: bucket.count for bucket in record.histogram.buckets if bucket.low >= 0}
    theirs = dict(zip(found.bucket_limit, found.bucket, strict=True))
    assert {high: theirs[high] for high in ours} == ours
    assert list(found.bucket_limit) == sorted(found.bucket_limit)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wandb_logs_offline(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    sink = sinks.WandB()
    logged: list[dict[str, Any]] = []
    original = sink._run.log
    sink._run.log = lambda values: logged.append(values) or original(values)
    for row in rows:
        sink.write(row)
    assert sink._run.summary["initstats/step"] == 6
    sink.close()
    assert wandb.run is None
    assert list(tmp_path.rglob("*.wandb"))
    histogram = logged[2]["initstats/gradients/0.weight"]
    record = rows[2].tables["gradients"]["0.weight"]
    assert sum(histogram.histogram) == record.count
    assert len(histogram.bins) == len(histogram.histogram) + 1


def test_two_models_share_one_writer_and_one_run(rows: list[Row], tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    writer = pytest.importorskip("torch.utils.tensorboard").SummaryWriter(str(tmp_path))
    alert = Finding("r", "warning", "w", 1.0, 1.0, cause="c", fix="f", source="s")
    for prefix in ("actor", "critic", ""):
        sinks.TensorBoard(writer, prefix=prefix).write(replace(rows[0], alerts=(alert,)))
    writer.close()
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    plain = {
        kind: {tag for tag in events.Tags()[kind] if not tag.startswith(("actor/", "critic/"))}
        for kind in ("scalars", "histograms", "tensors")
    }
    for kind, tags in plain.items():
        assert tags
        expected = tags | {f"{model}/{tag}" for model in ("actor", "critic") for tag in tags}
        assert set(events.Tags()[kind]) == expected
    assert len(events.Scalars("actor/initstats/gradient_norm")) == 1


def test_keys_of_wandb_begin_with_the_prefix(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    for name, value in (("MODE", "offline"), ("SILENT", "true"), ("DIR", str(tmp_path))):
        monkeypatch.setenv(f"WANDB_{name}", value)
    sink = sinks.WandB(prefix="actor")
    logged: list[dict[str, Any]] = []
    sink._run.log = logged.append
    sink.write(rows[0])
    sink.close()
    assert all(key.startswith("actor/initstats/") for key in logged[0])
    assert {"actor/initstats/step", "actor/initstats/gradients/0.weight"} <= set(logged[0])


def test_opentelemetry_gets_the_histograms_without_loss(rows: list[Row]) -> None:
    export = pytest.importorskip("opentelemetry.sdk.metrics.export")

    class Memory(export.MetricExporter):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.data: list[Any] = []
            self.result = export.MetricExportResult.SUCCESS

        def export(self, data: Any, **_: Any) -> Any:
            self.data.append(data)
            return self.result

        def shutdown(self, *_: Any, **__: Any) -> None:
            self.data.append("shut down")

        def force_flush(self, *_: Any, **__: Any) -> bool:
            return True

    exporter = Memory()
    sink = sinks.OpenTelemetry(exporter, {"service.name": "run"})
    sink.write(rows[0])
    metrics = exporter.data[0].resource_metrics[0].scope_metrics[0].metrics
    (updates,) = [m for m in metrics if m.name == "initstats.updates"]
    (point,) = [p for p in updates.data.data_points if p.attributes["tensor"] == "0.weight"]
    record = rows[0].tables["updates"]["0.weight"]
    rebuilt = {}
    for side, sign in ((point.positive, 1), (point.negative, -1)):
        for i, count in enumerate(side.bucket_counts):
            if count:
                k = side.offset + i
                rebuilt[sign * 2.0 ** (k + 1)] = count
    ours = {b.high if b.low >= 0 else b.low: b.count for b in record.histogram.buckets if b.high}
    assert rebuilt == {edge: count for edge, count in ours.items() if edge != 0}
    assert (point.scale, point.count, point.zero_count) == (0, record.count, record.zero)
    assert point.min == record.min
    json.loads(exporter.data[0].to_json())
    exporter.result = export.MetricExportResult.FAILURE
    with pytest.raises(RuntimeError, match="expected the export to succeed, got a failure"):
        sink.write(rows[1])
    sink.close()
    assert exporter.data[-1] == "shut down"


def test_rich_shows_the_last_row(rows: list[Row]) -> None:
    console = Console(file=io.StringIO(), width=120)
    sink = sinks.Rich(console)
    sink.write(rows[0])
    sink.write(rows[1])
    sink.close()
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "0.weight" in text
    assert "gradient_norm" in text


@pytest.mark.parametrize(
    ("make", "module", "extra"),
    [
        (lambda: sinks.TensorBoard("x"), "torch.utils.tensorboard", "tensorboard"),
        (sinks.WandB, "wandb", "wandb"),
        (lambda: sinks.OpenTelemetry(None), "opentelemetry.sdk.metrics.export", "opentelemetry"),
    ],
)
def test_a_missing_package_is_an_error_that_names_the_extra(
    make: Any, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"pip install initstats\[{extra}\]"):
        make()


def test_watch_shows_the_last_row_and_plot_draws_it(rows: list[Row], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    sink = sinks.JsonLines(tmp_path / "run.jsonl")
    for row in rows:
        sink.write(row)
    sink.close()
    shown = CliRunner().invoke(app, ["watch", "--once", str(sink.path)])
    assert shown.exit_code == 0, shown.output
    assert "step 6.00" in shown.output
    assert "0.weight" in shown.output
    picture = tmp_path / "run.png"
    for kind in ("activations", "gradients"):
        drawn = CliRunner().invoke(
            app, ["plot", str(sink.path), "--kind", kind, "--output", str(picture)]
        )
        assert drawn.exit_code == 0, drawn.output
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_commands_refuse_what_is_not_there(rows: list[Row], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("")
    some = sinks.JsonLines(tmp_path / "some")
    some.write(rows[0])
    for arguments, message in (
        (["watch", str(tmp_path / "no")], "initstats.watch: expected a file, got file="),
        (["watch", "--once", str(empty)], "expected at least one row, got none in"),
        (["plot", str(tmp_path / "no")], "initstats.plot: expected a file, got file="),
        (["plot", str(empty)], "initstats.plot: expected at least one row"),
        (["plot", str(some.path), "--kind", "x"], "expected a kind among"),
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2
        assert message in " ".join(result.output.split())
    some.close()


def test_following_a_file_waits_for_whole_lines_and_survives_rotation(tmp_path: Path) -> None:
    from initstats.cli.monitor_commands import follow

    path = tmp_path / "run.jsonl"
    path.write_text("one\ntw")
    lines = follow(path, poll_seconds=0)
    assert next(lines) == "one\n"
    with path.open("a") as file:
        file.write("o\n")
    assert next(lines) == "two\n"
    path.rename(tmp_path / "run.jsonl.1")
    path.write_text("three\n")
    assert next(lines) == "three\n"


def test_a_field_that_is_not_finite_becomes_null(tmp_path: Path) -> None:
    model = small_model()
    kept = Kept()
    with Monitor(model, every=1, watch=("weights",), sinks=[kept]) as monitor:
        with torch.no_grad():
            model[0].weight.fill_(math.inf)
        monitor.step()
    sink = sinks.JsonLines(tmp_path / "run.jsonl")
    sink.write(kept.rows[0])
    sink.close()
    (row,) = sinks.read_rows(sink.path)
    assert row.tables["weights"]["0.weight"].pos_inf == 128
    assert math.isnan(row.tables["weights"]["0.weight"].mean)
    assert row.alerts[0].rule == "not-finite"
