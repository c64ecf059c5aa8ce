"""What each of four ranks checks of left out steps: test_monitoring_skipping.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.optim import SGD

from initstats.monitoring import Monitor, Row
from initstats.sinks.joining import join_rows
from initstats.sinks.jsonl import JsonLines, read_rows
from monitored import Kept
from monitoring_ranks import messages, rank, shared_folder, world

WATCH = ("weights", "gradients", "updates")


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(5, 4)


def filled(net: nn.Module) -> None:
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)


def trained(
    steps: int, calls: Callable[[int], int], sink: Any, updates: int = 1, **settings: Any
) -> None:
    """Train in lockstep; `calls` tells how often this rank calls `step` of its monitor."""
    net = plain()
    optimizer = SGD(net.parameters(), 0.1)
    defaults = {"optimizer": optimizer, "every": 1, "watch": WATCH, "rank_timeout": 30.0}
    with Monitor(net, sinks=[sink], group=world(), **(defaults | settings)) as monitor:
        late = False
        for number in range(1, steps + 1):
            for _ in range(updates):
                filled(net)
                optimizer.step()
            for _ in range(calls(number)):
                monitor.step()
            late |= calls(number) == 0
            if late and calls(number):  # its row, the next one that the others wait for, is merged
                monitor.state_dict()
            dist.barrier()


def lacking(rows: list[Row]) -> dict[int, dict[str, str]]:
    return {row.step: dict(row.missing["ranks"]) for row in rows if "ranks" in row.missing}


def told(rows: list[Row], *rules: str) -> list[tuple[int, str, str]]:
    """Return the alerts of some rules, or of all: the step, the rule and where."""
    every = ((row.step, a.rule, a.where) for row in rows for a in row.alerts)
    return [each for each in every if not rules or each[1] in rules]


def assert_no_row_mixes_steps(rows: list[Row], updates: int = 1) -> None:
    """Check that the weights of a row are those that every step before it has made."""
    mean = float(plain().get_parameter("weight").detach().mean())
    for row in rows:
        weights = row.tables["weights"]
        assert weights["weight"].count == 20 * row.measured
        steps = [updates * (step - 1) for step in row.steps]  # before the first update of each
        expected = mean - 0.1 * sum(steps) / len(steps)
        assert abs(weights["weight"].mean - expected) < 1e-5, (row.step, row.missing)
    assert not told(rows, "replicas-differ")


def check_a_left_out_step_is_named_and_the_rank_catches_up() -> None:
    kept = Kept()
    trained(8, lambda number: int((rank(), number) != (2, 2)), kept)
    if rank() == 0:
        assert [row.step for row in kept.rows] == list(range(1, 9))
        why = {"rank 2": "has left out 1 monitor.step()"}
        assert lacking(kept.rows) == {2: why, 3: why, 4: why}
        assert_no_row_mixes_steps(kept.rows)
        assert told(kept.rows, "rank-missing", "rank-steps") == [(2, "rank-missing", "rank 2")]
        (alert,) = [a for a in kept.rows[1].alerts if a.rule == "rank-missing"]
        assert "left out 1 monitor.step()" in alert.cause


def check_the_rank_that_writes_may_be_the_one() -> None:
    kept = Kept()
    trained(8, lambda number: int((rank(), number) != (0, 3)), kept, updates=2)
    if rank() == 0:
        assert [row.step for row in kept.rows] == list(range(1, 9))
        why = {"rank 0": "has left out 1 monitor.step()"}
        assert lacking(kept.rows) == {3: why, 4: why, 5: why}
        assert_no_row_mixes_steps(kept.rows, 2)


def check_rows_of_several_steps_and_every_third_step() -> None:
    for every, window in ((3, 1), (1, 3), (3, 2), (5, 1)):
        for missed in ((2,), (4, 5), (7, 8, 9), (4, 10)):
            kept = Kept()
            trained(
                31,
                lambda number, missed=missed: int(rank() != 3 or number not in missed),  # type: ignore[misc]
                kept,
                every=every,
                window=window,
            )
            if rank() == 0:
                rows = [row for row in kept.rows if row.measured == window]
                lost = lacking(rows)
                assert_no_row_mixes_steps(rows)
                assert lost, (every, window, missed)
                assert all(set(whys) == {"rank 3"} for whys in lost.values())
                assert max(lost) <= max(missed) + 4 * every * window, (every, window, lost)
                steps = [step for row in kept.rows for step in row.steps]
                assert steps == list(range(1, 32, every))


def check_a_rank_that_skips_an_update_is_named_once_and_its_rows_count() -> None:
    kept, net = Kept(), plain()
    optimizer = SGD(net.parameters(), 0.1)
    with (
        messages() as sent,
        Monitor(
            net, optimizer=optimizer, every=1, watch=("gradients",), sinks=[kept], group=world()
        ) as monitor,
    ):
        for number in range(1, 6):
            filled(net)
            if (rank(), number) != (1, 3):
                optimizer.step()
            monitor.step()
            monitor.state_dict()
    assert len(sent) == 3 * 5 + 1 + 1, sent  # one to see which rank, and one when all have closed
    if rank() == 0:
        assert not lacking(kept.rows)
        assert told(kept.rows) == [(3, "rank-steps", "rank 1")]
        (alert,) = kept.rows[2].alerts
        assert "1 step fewer" in alert.cause


def check_every_update_that_a_rank_skips_is_told() -> None:
    path = shared_folder()
    for reduce in ("merge", "none"):
        net = plain()
        optimizer = SGD(net.parameters(), 0.1)
        with Monitor(
            net,
            optimizer=optimizer,
            every=1,
            watch=("gradients",),
            sinks=[JsonLines(path / f"{reduce}.jsonl")],
            group=world(),
            reduce=reduce,  # type: ignore[arg-type]
        ) as monitor:
            for number in range(1, 10):
                filled(net)
                if (rank(), number) not in ((1, 3), (1, 4), (1, 7), (2, 4)):
                    optimizer.step()
                monitor.step()
        dist.barrier()
    if rank() == 0:
        merged = list(read_rows(path / "merge.jsonl"))
        joined = list(join_rows(sorted(path.glob("none.rank*.jsonl"))))
        for rows in (merged, joined):
            assert [row.step for row in rows] == list(range(1, 10))
            assert not lacking(rows)
            steps = [(3, 1), (4, 1), (4, 2), (7, 1)]
            assert told(rows) == [(n, "rank-steps", f"rank {who}") for n, who in steps]
            assert all("1 step fewer" in a.cause for row in rows for a in row.alerts)


def check_a_rank_whose_first_update_is_skipped_is_named_and_its_rows_count() -> None:
    kept, net = Kept(), plain()
    optimizer = SGD(net.parameters(), 0.1)
    with Monitor(
        net, optimizer=optimizer, every=1, watch=("gradients",), sinks=[kept], group=world()
    ) as monitor:
        for number in range(1, 5):
            filled(net)
            if (rank(), number) != (1, 1):
                optimizer.step()
            monitor.step()
    if rank() == 0:
        assert not lacking(kept.rows)
        assert told(kept.rows) == [(2, "rank-steps", "rank 1")]


def check_optimizers_that_take_turns() -> None:
    kept, nets = Kept(), nn.ModuleList([plain(), plain()])
    optimizers = [SGD(net.parameters(), 0.1) for net in nets]
    with Monitor(
        nets, optimizer=optimizers, every=1, watch=("weights",), sinks=[kept], group=world()
    ) as monitor:
        for number in range(1, 11):
            filled(nets)
            optimizers[number % 2].step()
            if (rank(), number) != (2, 4):
                monitor.step()
            dist.barrier()
    if rank() == 0:
        why = {"rank 2": "has left out 1 monitor.step()"}
        found = lacking(kept.rows)
        assert found[4] == why, found
        assert not told(kept.rows, "replicas-differ", "rank-steps")


def check_a_rank_that_ends_within_a_row_is_named_and_others_stand_in() -> None:
    for reduce in ("merge", "none"):
        path, kept = shared_folder(), Kept()
        nets = nn.ModuleList(plain() for _ in range(4))  # so that every rank counts some of them
        optimizer = SGD(nets.parameters(), 0.1)
        monitor = Monitor(
            nets,
            optimizer=optimizer,
            every=1,
            window=4,
            watch=WATCH,
            sinks=[kept if reduce == "merge" else JsonLines(path / "run.jsonl")],
            group=world(),
            reduce=reduce,  # type: ignore[arg-type]
        ).attach()
        for number in range(1, 5):
            filled(nets)
            optimizer.step()
            if number == 4:  # measured, but `step` is never called
                break
            monitor.step(loss=None if (rank(), number) == (1, 3) else float(number))
            if (rank(), number) == (2, 2):
                monitor.close()
        monitor.close()
        dist.barrier()
        if rank() == 0:
            rows = kept.rows
            if reduce == "none":
                rows = list(join_rows(sorted(path.glob("run.rank*.jsonl"))))
            (row,) = rows
            assert lacking(rows) == {row.step: {"rank 2": "has measured nothing after step 2"}}
            assert row.steps == (1, 2, 3, 4)
            assert row.loss[:3].tolist() == [1.0, 2.0, 3.0], row.loss
            assert row.gradient_norm.tolist() == pytest.approx([96**0.5] * 4), reduce
            assert {record.count for record in row.tables["weights"].values()} == {80, 16}
            assert not told(rows, "replicas-differ")


def check_a_rank_that_calls_step_twice_is_named() -> None:
    kept = Kept()
    trained(6, lambda number: 1 + ((rank(), number) == (1, 3)), kept)
    if rank() == 0:
        assert (4, "rank-steps", "rank 1") in told(kept.rows)


def check_loops_in_which_all_ranks_do_the_same_are_told_nothing_of() -> None:
    kept, nets = Kept(), nn.ModuleList([plain(), plain()])
    optimizers = [SGD(net.parameters(), 0.1) for net in nets]
    # A critic that steps more often at first, a scaler that skips, and a rank without an optimizer.
    of_rank = [] if rank() == 3 else optimizers
    with (
        messages() as sent,
        Monitor(
            nets, optimizer=of_rank, every=2, watch=("gradients",), sinks=[kept], group=world()
        ) as monitor,
    ):
        for number in range(1, 12):
            filled(nets)
            for _ in range(10 if number < 4 else 5):
                optimizers[0].step()
            if number != 6:
                optimizers[1].step()
            monitor.step()
        monitor.state_dict()
    assert len(sent) == 3 * 6 + 1, sent
    if rank() == 0:
        assert not told(kept.rows)
        assert not lacking(kept.rows)


def check_without_an_optimizer_nothing_is_counted() -> None:
    kept = Kept()
    trained(5, lambda number: int((rank(), number) != (2, 2)), kept, optimizer=None)
    if rank() == 0:
        assert lacking(kept.rows) == {5: {"rank 2": "closed its monitor"}}


def check_files_of_ranks_are_joined_step_by_step() -> None:
    for every, window, lost in ((1, 1, [2, 3]), (3, 1, [4, 7, 10]), (1, 2, [2, 4, 6, 8, 10])):
        path = shared_folder()
        trained(
            10,
            lambda number: int((rank(), number) != (2, 2)),
            JsonLines(path / "run.jsonl"),
            every=every,
            window=window,
            reduce="none",
        )
        dist.barrier()
        if rank() == 0:
            rows = list(join_rows(sorted(path.glob("run.rank*.jsonl"))))
            assert [step for row in rows for step in row.steps] == list(range(1, 11, every))
            why = {"rank 2": "has left out 1 monitor.step()"}
            assert lacking(rows) == dict.fromkeys(lost, why), (every, window, lacking(rows))
            assert_no_row_mixes_steps(rows)
            first = (lost[0], "rank-missing", "rank 2")
            assert told(rows, "rank-missing", "rank-steps") == [first]


CHECKS = (
    check_a_left_out_step_is_named_and_the_rank_catches_up,
    check_the_rank_that_writes_may_be_the_one,
    check_rows_of_several_steps_and_every_third_step,
    check_a_rank_that_skips_an_update_is_named_once_and_its_rows_count,
    check_every_update_that_a_rank_skips_is_told,
    check_a_rank_whose_first_update_is_skipped_is_named_and_its_rows_count,
    check_optimizers_that_take_turns,
    check_a_rank_that_ends_within_a_row_is_named_and_others_stand_in,
    check_a_rank_that_calls_step_twice_is_named,
    check_loops_in_which_all_ranks_do_the_same_are_told_nothing_of,
    check_without_an_optimizer_nothing_is_counted,
    check_files_of_ranks_are_joined_step_by_step,
)
