"""Sinks: what is written reads back with the reader of each tool, and is what was measured."""

from __future__ import annotations

import io
import json
import math
import multiprocessing
import pickle
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
from initstats.monitoring.row import RankInfo
from initstats.monitoring.window import Window
from monitored import Kept, batch, small_model, train
from wandb_files import wandb_history, wandb_records


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


def test_a_pickled_json_sink_opens_its_file_where_it_is(rows: list[Row], tmp_path: Path) -> None:
    sink = sinks.JsonLines(tmp_path / "run.jsonl")
    data = pickle.dumps(sink)
    sink.close()
    other = (tmp_path / "other").open("w")  # gets the number that the sink's file had
    copy = pickle.loads(data)
    copy.write(rows[0])
    copy.close()
    other.close()
    assert (tmp_path / "other").read_text() == ""
    assert [row.step for row in sinks.read_rows(sink.path)] == [rows[0].step]


def test_rows_keep_their_ranks_and_each_rank_has_a_file(rows: list[Row], tmp_path: Path) -> None:
    sink = sinks.JsonLines(tmp_path / "run.jsonl").for_rank(17)
    ranks = RankInfo(17, "rank", 32, "name", 2, (3, 1.5), None)
    sink.write(replace(rows[0], ranks=ranks))
    sink.close()
    assert sink.path.name == "run.rank00017.jsonl"
    (back,) = sinks.read_rows(sink.path)
    assert back.ranks == ranks


def of_ranks(rows: list[Row], folder: Path, ranks: int) -> list[str]:
    """Write rows as if each rank had measured them."""
    for rank in range(ranks):
        sink = sinks.JsonLines(folder / "run.jsonl").for_rank(rank)
        for row in rows:
            sink.write(replace(row, ranks=RankInfo(rank, "rank", ranks)))
        sink.close()
    return [str(folder / f"run.rank{rank:05d}.jsonl") for rank in range(ranks)]


def test_files_of_ranks_merge_with_one_replica_and_all_outputs(
    rows: list[Row], tmp_path: Path
) -> None:
    files = of_ranks(rows, tmp_path, 3)
    output = str(tmp_path / "run.jsonl")  # empty, as the sink that was given has left it
    done = CliRunner().invoke(app, ["merge", *files, "--output", output])
    assert done.exit_code == 0, done.output
    assert "wrote 3 rows" in done.output
    joined = list(sinks.read_rows(output))
    for row, one in zip(joined, rows, strict=True):
        assert row.ranks is not None
        assert row.ranks.scope == "merged"
        weights, outputs = row.tables["weights"], row.tables["activations"]
        for name, record in one.tables["weights"].items():
            assert weights[name].to_dict() == record.to_dict()
        for name, record in one.tables["activations"].items():
            assert outputs[name].count == 3 * record.count
            assert outputs[name].histogram.total == 3 * record.histogram.total
            assert outputs[name].rms == pytest.approx(record.rms)


def test_merge_names_ranks_without_a_row_and_refuses_other_files(
    rows: list[Row], tmp_path: Path
) -> None:
    files = of_ranks(rows[:2], tmp_path, 2)
    late = sinks.JsonLines(files[1])
    late.write(replace(rows[2], ranks=RankInfo(1, "rank", 2)))
    late.close()
    joined = list(sinks.join_rows(files))
    assert joined[2].missing["ranks"] == {"rank 0": "wrote no row"}
    assert "ranks" not in joined[1].missing
    with pytest.raises(ValueError, match="expected every step of a rank once, got step 2 of rank"):
        list(sinks.join_rows([files[0], files[0]]))
    alone = sinks.JsonLines(tmp_path / "alone.jsonl")
    alone.write(rows[0])
    with pytest.raises(ValueError, match="expected rows of one rank each"):
        list(sinks.join_rows([alone.path]))
    for arguments, text in (
        ([files[0], "--output", files[1]], "expected a new or empty file"),
        ([str(tmp_path / "none"), "--output", str(tmp_path / "x")], "expected a file"),
        ([str(alone.path), "--output", str(tmp_path / "x")], "expected rows of one rank"),
    ):
        done = CliRunner().invoke(app, ["merge", *arguments])
        assert done.exit_code == 2
        assert text in done.output


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


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The real package, which writes into the test's folder and asks no server."""
    module = pytest.importorskip("wandb")
    for name, value in (("MODE", "offline"), ("SILENT", "true"), ("DIR", str(tmp_path))):
        monkeypatch.setenv(f"WANDB_{name}", value)
    module.teardown()  # it reads these once
    return module


def test_a_run_that_the_sink_makes_takes_a_step_per_row_and_is_finished(
    rows: list[Row], wandb: Any, tmp_path: Path
) -> None:
    sink = sinks.WandB(prefix="actor")
    for row in rows:
        sink.write(row)
    sink.close()
    assert wandb.run is None
    history = wandb_history(tmp_path)
    assert [line["actor/initstats/step"] for line in history] == [2, 4, 6]
    assert all(key.startswith(("actor/initstats/", "_")) for line in history for key in line)
    name = "actor/initstats/gradients/0.weight"
    values, bins = (history[2][f"{name}.{part}"] for part in ("values", "bins"))
    assert sum(values) == rows[2].tables["gradients"]["0.weight"].count
    assert len(bins) == len(values) + 1


USER_LOGS: dict[str, Any] = {
    "with step=": lambda run, i: run.log({"loss": i}, step=i),
    "without": lambda run, i: run.log({"loss": i}),
    "twice": lambda run, i: (run.log({"loss": i}, step=i), run.log({"rate": i}, step=i)),
    "with large steps": lambda run, i: run.log({"loss": i}, step=100 * i),
    "in parts": lambda run, i: (run.log({"rate": i}, commit=False), run.log({"loss": i})),
}


@pytest.mark.parametrize("how", USER_LOGS)
@pytest.mark.parametrize("rows_between", [0, 1, 3])
def test_no_log_of_the_user_is_lost_and_no_step_of_a_row(
    rows: list[Row], wandb: Any, tmp_path: Path, how: str, rows_between: int
) -> None:
    run = wandb.init(project="x")
    sink = sinks.WandB()
    step = 0
    for i in range(6):
        for _ in range(rows_between):
            step += 1
            norms = np.full(1, float(step))
            sink.write(
                replace(
                    rows[0],
                    step=step,
                    first_step=step,
                    steps=(step,),
                    measured=1,
                    gradient_norm=norms,
                )
            )
        USER_LOGS[how](run, i)
    sink.close()
    run.log({"accuracy": 1.0})
    assert wandb.run is run  # whose run it is, ends it
    run.finish()
    history = wandb_history(tmp_path)
    assert [line["loss"] for line in history if "loss" in line] == list(range(6))
    if how in {"twice", "in parts"}:
        assert [line["rate"] for line in history if "rate" in line] == list(range(6))
    assert any("accuracy" in line for line in history)
    ours = [line for line in history if "initstats/step" in line]
    assert sum(line["initstats/measured"] for line in ours) >= step
    if step:
        assert ours[-1]["initstats/step"] == step
        assert max(line["initstats/gradient_norm_max"] for line in ours) == step


def test_a_trainer_that_makes_its_run_after_the_sink_keeps_it(rows: list[Row], wandb: Any) -> None:
    sink = sinks.WandB()
    run = wandb.init(project="x")
    sink.write(rows[0])
    sink.close()
    assert wandb.run is run
    run.finish()


def test_merged_rows_hold_what_one_window_would(rows: list[Row]) -> None:
    from initstats.monitoring.row_merge import merge_rows

    merged = merge_rows(rows[0], rows[1])
    assert (merged.step, merged.first_step, merged.steps) == (4, 1, (1, 2, 3, 4))
    assert merged.gradient_norm.tolist() == [*rows[0].gradient_norm, *rows[1].gradient_norm]
    for kind, table in merged.tables.items():
        one, two = rows[0].tables[kind], rows[1].tables[kind]
        for name in table:
            pooled = one[name].merge(two[name])
            assert table[name].to_dict() == pooled.to_dict()
            i, j = one.index[name], two.index[name]
            k = table.index[name]
            assert table.high["rms"][k] == max(one.high["rms"][i], two.high["rms"][j])
            mean = (one.average["l2"][i] + two.average["l2"][j]) / 2
            assert table.average["l2"][k] == pytest.approx(mean)


ALERT = Finding("a-rule", "warning", "w", 1.0, 1.0, cause="why", fix="what", source="s")


def told(row: Row) -> Row:
    """Return the row with an alert and something missing."""
    return replace(row, alerts=(ALERT,), missing={"gradients": {"head.weight": "no gradient"}})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_alerts_and_missing_values_reach_every_sink(
    rows: list[Row], wandb: Any, tmp_path: Path
) -> None:
    row = told(rows[0])
    assert row.scalars()["alerts"] == row.scalars()["missing"] == 1.0
    # JSON lines, watch, the console
    sink = sinks.JsonLines(tmp_path / "run.jsonl")
    sink.write(row)
    sink.close()
    (back,) = sinks.read_rows(sink.path)
    assert (back.alerts, back.missing) == (row.alerts, row.missing)
    shown = CliRunner().invoke(app, ["watch", "--once", str(sink.path)]).output
    console = Console(file=io.StringIO(), width=120)
    rich = sinks.Rich(console)
    rich.write(row)
    rich.close()
    for text in (shown, console.file.getvalue()):  # type: ignore[attr-defined]
        assert "warning a-rule at w: why" in text
        assert "no gradients of head.weight: no gradient" in text
    # TensorBoard
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = sinks.TensorBoard(tmp_path / "board")
    board.write(row)
    board.write(row)
    board.close()
    events = accumulator.EventAccumulator(str(tmp_path / "board")).Reload()
    texts = [
        [
            event.tensor_proto.string_val[0].decode()
            for event in events.Tensors(f"initstats/{tag}/text_summary")
        ]
        for tag in ("alerts", "missing")
    ]
    assert texts == [["warning a-rule at w: why"] * 2, ["no gradients of head.weight: no gradient"]]
    # Weights & Biases
    run = wandb.init(project="x")
    sinks.WandB(run).write(row)
    run.finish()
    (line,) = wandb_history(tmp_path)
    assert line["initstats/alert_text"] == "warning a-rule at w: why"
    assert line["initstats/missing_text"] == "no gradients of head.weight: no gradient"
    (alert,) = wandb_records(tmp_path, "alert")
    assert (alert.title, alert.level) == ("a-rule at w", "WARN")


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
    sink.write(told(rows[0]))
    gauges = {m.name: m for m in exporter.data[1].resource_metrics[0].scope_metrics[0].metrics}
    (alert,) = gauges["initstats.alert"].data.data_points
    assert (alert.attributes["rule"], alert.attributes["cause"]) == ("a-rule", "why")
    missing = gauges["initstats.missing"].data.data_points
    assert [(p.attributes.get("reason"), p.value) for p in missing][-1] == ("no gradient", 1.0)
    exporter.result = export.MetricExportResult.FAILURE
    with pytest.raises(RuntimeError, match="expected the export to succeed, got a failure"):
        sink.write(rows[1])
    sink.close()
    assert exporter.data[-1] == "shut down"


def _writes(sink: Any, row: Row) -> None:
    sink.write(row)
    sink.close()


def test_a_sink_in_a_spawned_process_writes_into_its_own_file_and_loses_nothing(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sink = sinks.JsonLines("run.jsonl")
    sink.write(rows[0])
    process = multiprocessing.get_context("spawn").Process(target=_writes, args=(sink, rows[1]))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    monkeypatch.chdir("/")
    copy = pickle.loads(pickle.dumps(sink))
    foreign = (tmp_path / "foreign").open("w")  # takes the number of the descriptor
    copy.write(rows[2])
    copy.close()
    foreign.close()
    sink.close()
    assert (tmp_path / "foreign").read_text() == ""
    path = tmp_path / "run.jsonl"
    assert [row.step for row in sinks.read_rows(path)] == [2, 4, 6]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_sinks_that_hold_what_belongs_to_a_process_refuse_to_pickle(
    rows: list[Row], tmp_path: Path
) -> None:
    export = pytest.importorskip("opentelemetry.sdk.metrics.export")
    writer = pytest.importorskip("torch.utils.tensorboard").SummaryWriter(str(tmp_path))
    for sink, what in (
        (
            sinks.TensorBoard(writer),
            "TensorBoard: expected no pickle or copy of a sink that holds a writer",
        ),
        (sinks.OpenTelemetry(export.ConsoleMetricExporter()), "OpenTelemetry: .* an exporter"),
        (sinks.Rich(Console()), "Rich: .* a console"),
        (sinks.WandB(run=object()), "WandB: .* a run"),
    ):
        with pytest.raises(TypeError, match=f"initstats.sinks.{what}"):
            pickle.dumps(sink)
    writer.close()
    board = pickle.loads(pickle.dumps(sinks.TensorBoard(tmp_path / "own")))
    _writes(board, rows[0])
    assert list((tmp_path / "own").iterdir())
    pickle.loads(pickle.dumps(sinks.Rich()))
    pickle.loads(pickle.dumps(sinks.WandB()))


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
        (
            ["plot", str(some.path), "--kind", "gradients", "--field", "rsm"],
            "got name='rsm'; the nearest is 'rms'",
        ),
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2
        assert message in " ".join(result.output.split())
    some.close()


COMMANDS = {
    "watch": ["watch", "FILE"],
    "watch --once": ["watch", "--once", "FILE"],
    "plot": ["plot", "FILE", "--kind", "gradients", "--output", "OUT"],
    "report": ["report", "FILE", "--output", "OUT"],
    "merge": ["merge", "FILE", "--output", "OUT"],
}


def refusal(command: str, file: Path, output: Path) -> str:
    """Return the line with which a command refuses a file or an output."""
    places = {"FILE": str(file), "OUT": str(output)}
    arguments = [places.get(word, word) for word in COMMANDS[command]]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.exception
    assert result.stdout in {"", "waiting for a row"}
    return " ".join(result.stderr.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_cannot_be_opened_is_one_line(command: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    for file in (tmp_path, tmp_path / "loop", tmp_path / ("a" * 300), tmp_path / "file/run"):
        line = refusal(command, file, tmp_path / "out.png")
        assert f"{command.split(maxsplit=1)[0]}: expected a file, got file={file}" in line


@pytest.mark.parametrize("command", ["plot", "report", "merge"])
def test_an_output_that_cannot_be_written_is_one_line(
    command: str, rows: list[Row], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    of_rank = RankInfo(rank=0, scope="rank", world=1)
    run = sinks.JsonLines(tmp_path / "run.jsonl")
    run.write(replace(rows[0], ranks=of_rank) if command == "merge" else rows[0])
    run.close()
    for output in (tmp_path / "run.jsonl/x.png", tmp_path / ("a" * 300)):
        line = refusal(command, run.path, output)
        assert f"initstats.{command}: expected an output to write to, got '{output}'" in line


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "watch"])
def test_a_file_without_rows_is_refused_and_one_of_another_version_says_so(
    command: str, rows: list[Row], tmp_path: Path
) -> None:
    other, later, output = tmp_path / "other", tmp_path / "later.jsonl", tmp_path / "out.png"
    other.write_bytes(b"\x89PNG\n\n")
    assert refusal(command, other, output).endswith(
        f"expected at least one row, got none in {other}"
    )
    sink = sinks.JsonLines(later)
    sink.write(rows[0])
    sink.close()
    later.write_text(later.read_text().replace("initstats.monitor/1", "initstats.monitor/2"))
    assert "rows of schema 'initstats.monitor/2', which this version" in refusal(
        command, later, output
    )
    assert not output.exists()


def test_plot_writes_the_file_that_it_names(rows: list[Row], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    sink = sinks.JsonLines(tmp_path / "run.jsonl")
    sink.write(rows[0])
    sink.close()
    picture = tmp_path / "picture"
    done = CliRunner().invoke(app, ["plot", str(sink.path), "--output", str(picture)])
    assert done.output == f"wrote {picture}\n"
    assert picture.read_bytes().startswith(b"\x89PNG")


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


def test_a_byte_order_mark_hides_no_row(tmp_path: Path) -> None:
    saved = Path(__file__).parents[1] / "vectors/saved_0_1_0/run.jsonl"
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + saved.read_bytes())
    steps = [[row.step for row in sinks.read_rows(file)] for file in (path, saved)]
    assert steps[0] == steps[1] != []
