"""What each of four ranks checks in loops of other libraries, for test_integrations_ranks.py.

Every check trains the same model on the same rows of data, clips, accumulates over two batches and
compares the rows of the monitor with those of one process that trains without any library.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from typer.testing import CliRunner

import initstats
from initstats.cli import app
from initstats.monitoring import Monitor, Row
from monitored import Kept, assert_alike

RANKS, STEPS, ROWS, ACCUMULATED = 4, 3, 8, 2
GUIDE = Path(__file__).resolve().parents[2] / "docs/guides/monitoring_ranks.md"
EXAMPLE = re.compile(r"```{code-block} python\n(.*?)```", re.DOTALL)
RECIPE = "torch_default"
RATE, MOST = 1e-2, 0.05  # of the optimizer, and norm that gradients are clipped to
SETTINGS: dict[str, Any] = {
    "every": 1,
    "watch": ("weights", "gradients", "updates", "moments", "activations"),
    "rank_timeout": 60.0,
    "group": lambda: torch.distributed.group.WORLD,  # as the guide has it
}


def rank() -> int:
    return dist.get_rank()


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 4))


def samples() -> Tensor:
    """All rows of data, in order; the ranks together take so many at a time as one process."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(STEPS * ACCUMULATED * ROWS, 6, generator=generator)


def batches(part: int = 0, parts: int = 1) -> Iterator[Tensor]:
    """Yield the batches of one of several ranks, together those of one process."""
    for batch in samples().split(ROWS):
        yield batch[part::parts]


def loss_of(output: Tensor) -> Tensor:
    return output.square().mean()


def adam(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(net.parameters(), RATE, weight_decay=0.0)


@functools.cache
def reference(made: Callable[[], nn.Module] = model) -> list[Row]:
    """The rows of one process."""
    net, kept = made(), Kept()
    optimizer = adam(net)
    settings = SETTINGS | {"group": None}
    with Monitor(net, optimizer=optimizer, sinks=[kept], **settings) as monitor:
        for i, batch in enumerate(batches(), 1):
            (loss_of(net(batch)) / ACCUMULATED).backward()
            if i % ACCUMULATED == 0:
                nn.utils.clip_grad_norm_(net.parameters(), MOST)
                optimizer.step()
                optimizer.zero_grad()
                monitor.step()
                while len(kept.rows) < i // ACCUMULATED:
                    time.sleep(1e-3)
    return kept.rows


def assert_rows(
    kept: Kept,
    prefix: str = "",
    made: Callable[[], nn.Module] = model,
    *,
    whole_outputs: bool = True,
    before_clipping: bool = True,
) -> None:
    """The first rank has the rows of one process, the others none."""
    if rank() != 0:
        assert not kept.rows
        return
    expected = reference(made)
    assert [row.step for row in kept.rows] == [row.step for row in expected] == [1, 2, 3]
    for row, one in zip(kept.rows, expected, strict=True):
        assert row.ranks is not None
        assert (row.ranks.rank, row.ranks.scope, row.ranks.world) == (0, "merged", RANKS)
        assert not row.missing, row.missing
        assert not row.alerts, row.alerts
        for kind, whole in one.tables.items():
            if kind == "activations" and not whole_outputs:
                continue
            assert_alike(row.tables[kind], whole, prefix, kind)
        np.testing.assert_allclose(row.gradient_norm, one.gradient_norm, rtol=1e-4)
        np.testing.assert_allclose(row.gradient_norm, MOST, rtol=1e-3)
        if before_clipping:
            np.testing.assert_allclose(
                row.gradient_norm_before_clipping, one.gradient_norm_before_clipping, rtol=1e-4
            )
        ratios, wanted = row.update_ratios(), one.update_ratios()
        assert list(ratios) == [f"{prefix}{name}" for name in wanted]
        np.testing.assert_allclose(list(ratios.values()), list(wanted.values()), rtol=1e-3)


def assert_group_is_left_alone() -> None:
    """The group of the library works, and none of the monitor's threads is left."""
    one = torch.ones(1)
    dist.all_reduce(one)
    assert one.item() == RANKS
    assert not [thread for thread in threading.enumerate() if "initstats" in thread.name]


def sharded(net: nn.Module, dp: DeviceMesh, tp: DeviceMesh | None = None) -> nn.Module:
    """Cut a model by features, then by FSDP2, as torchtitan does."""
    if tp is not None:
        parallelize_module(net, tp, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    for layer in (net.get_submodule("0"), net.get_submodule("2"), net):
        fully_shard(layer, mesh=dp)
    return net


# ---- Lightning


def fit(
    strategy: Any,
    make: Callable[[Any], nn.Module],
    parts: int,
    *,
    steps: int = STEPS,
    same: bool = False,
    load: Path | None = None,
    save: Path | None = None,
    **settings: Any,
) -> Kept:
    """Train by Lightning's Trainer with the one-liner of the guide.

    Args:
        strategy: Of the Trainer.
        make: Makes the model.
        parts: Over how many ranks a batch is split.
        steps: Steps to train.
        same: Train on the first batch alone: a Trainer that goes on begins the data again.
        load: Checkpoint to go on from.
        save: Where to write a checkpoint after the first step.
        **settings: More arguments of the monitor.
    """
    import lightning.pytorch as lightning

    from initstats.integrations.for_lightning import MonitorCallback

    class Model(lightning.LightningModule):  # type: ignore[misc]
        def configure_model(self) -> None:
            if not hasattr(self, "net"):
                self.net = make(self)

        def training_step(self, x: Tensor, _index: int) -> Tensor:
            return loss_of(self.net(x))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return adam(self)

    class Saving(lightning.Callback):  # type: ignore[misc]
        saved = save is None

        def on_train_batch_end(self, trainer: Any, *_args: Any) -> None:
            if not self.saved and trainer.global_step == 1:
                self.saved = True
                trainer.save_checkpoint(save)

    kept = Kept()
    trainer = lightning.Trainer(
        strategy=strategy,
        devices=RANKS,
        accelerator="cpu",
        max_steps=steps,
        accumulate_grad_batches=ACCUMULATED,
        gradient_clip_val=MOST,
        callbacks=[MonitorCallback(sinks=[kept], **(SETTINGS | settings)), Saving()],
        use_distributed_sampler=False,  # it shuffles
        default_root_dir=tempfile.gettempdir(),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    part = int(os.environ["RANK"]) * parts // RANKS
    mine: Any = list(batches(part, parts))
    mine = mine[:1] * len(mine) if same else mine
    trainer.fit(Model(), torch.utils.data.DataLoader(mine, batch_size=None), ckpt_path=load)
    assert trainer.global_step == steps
    return kept


def check_lightning_ddp_in_a_group_that_it_makes_itself() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = [free.getsockname()[1]]
    dist.broadcast_object_list(port, 0)
    dist.destroy_process_group()
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port[0]))
    kept = fit("ddp", lambda _module: model(), RANKS)
    assert_rows(kept, "net.")
    assert_group_is_left_alone()


def check_lightning_model_parallel_fsdp2_and_tensor_parallel() -> None:
    from lightning.pytorch.strategies import ModelParallelStrategy

    def make(module: Any) -> nn.Module:
        return sharded(
            model(), module.device_mesh["data_parallel"], module.device_mesh["tensor_parallel"]
        )

    kept = fit(ModelParallelStrategy(2, 2), make, 2)
    assert_rows(kept, "net.", whole_outputs=False)
    assert_group_is_left_alone()


def check_lightning_goes_on_with_what_every_rank_has_measured() -> None:
    names = [tempfile.mkdtemp() if rank() == 0 else ""]
    dist.broadcast_object_list(names, 0)
    file = Path(names[0]) / "last.ckpt"
    how: dict[str, Any] = {"same": True, "window": 2}

    def run(**settings: Any) -> list[Row]:
        return fit("ddp", lambda _module: model(), RANKS, **how, **settings).rows

    whole = run()
    run(steps=1, save=file)  # within a window
    rest = run(load=file)
    if rank() == 0:
        assert [row.steps for row in rest] == [row.steps for row in whole] == [(1, 2), (3,)]
        for row, one in zip(rest, whole, strict=True):
            assert not row.missing, row.missing
            assert not row.alerts, row.alerts
            for kind, table in one.tables.items():
                assert_alike(row.tables[kind], table, "", kind)
            np.testing.assert_allclose(row.gradient_norm, one.gradient_norm, rtol=1e-5)
        assert rest[0].tables["activations"]["net.0"].count == 2 * ROWS * ACCUMULATED * 10
    with contextlib.ExitStack() as late:
        if rank() == 2:
            late.enter_context(patch.object(Monitor, "state_dict", side_effect=TimeoutError))
        run(steps=1, save=file)
    rest = run(load=file)
    if rank() == 0:
        assert [row.steps for row in rest] == [(1, 2), (3,)]
        lost = ROWS * ACCUMULATED * 10 // RANKS
        assert rest[0].tables["activations"]["net.0"].count == 2 * ROWS * ACCUMULATED * 10 - lost
    assert_group_is_left_alone()


# ---- transformers and Accelerate


class WithLoss(nn.Module):
    """What the Trainer of transformers trains: a model that returns its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.net = model()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": loss_of(self.net(x))}


def use_fsdp2(state: Any) -> None:
    """Switch Accelerate to FSDP2, which it offers on GPUs alone."""
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    state.distributed_type = DistributedType.FSDP
    state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="size_based_wrap",
        min_num_params=1,
        reshard_after_forward=True,
    )


def forget_accelerate() -> None:
    """Accelerate keeps its state for the whole process."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def trained_by_transformers(
    *,
    fsdp2: bool,
    steps: int = STEPS,
    folder: Path | None = None,
    load: bool = False,
    **settings: Any,
) -> Kept:
    """Train by transformers' Trainer with the one-liner of the guide.

    Args:
        fsdp2: Train with FSDP2.
        steps: Steps to train.
        folder: Where to write a checkpoint after the last step.
        load: Go on from that of the folder.
        **settings: More arguments of the monitor.
    """
    import transformers

    from initstats.integrations.for_transformers import MonitorCallback

    class Trainer(transformers.Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *args: Any) -> Any:
            return torch.utils.data.SequentialSampler(args[0])

    forget_accelerate()
    kept = Kept()
    arguments = transformers.TrainingArguments(
        output_dir=str(folder or tempfile.gettempdir()),
        max_steps=steps,
        gradient_accumulation_steps=ACCUMULATED,
        per_device_train_batch_size=ROWS // RANKS,
        max_grad_norm=MOST,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        report_to=[],
        save_strategy="no" if folder is None else "steps",
        save_steps=steps,
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(
        WithLoss(),
        arguments,
        train_dataset=[{"x": x} for x in samples()],
        callbacks=[MonitorCallback(sinks=[kept], **(SETTINGS | settings))],
    )
    if fsdp2:
        use_fsdp2(trainer.accelerator.state)
        trainer.is_fsdp_enabled = True
    trainer.train(resume_from_checkpoint=load)
    assert trainer.state.global_step == steps
    assert isinstance(next(trainer.model.parameters()), DTensor) == fsdp2
    return kept


def check_transformers_trainer_with_ddp() -> None:
    assert_rows(trained_by_transformers(fsdp2=False), "net.")
    assert_group_is_left_alone()


def check_transformers_goes_on_with_what_every_rank_has_measured() -> None:
    names = [tempfile.mkdtemp() if rank() == 0 else ""]
    dist.broadcast_object_list(names, 0)
    folder = Path(names[0])
    how: dict[str, Any] = {"fsdp2": False, "window": 2}
    whole = trained_by_transformers(**how).rows
    trained_by_transformers(**how, steps=1, folder=folder)  # within a window
    rest = trained_by_transformers(**how, folder=folder, load=True).rows
    assert (folder / "checkpoint-1/initstats_monitor_3.pt").is_file()
    if rank() == 0:
        assert [row.steps for row in rest] == [row.steps for row in whole] == [(1, 2), (3,)]
        for row, one in zip(rest, whole, strict=True):
            assert not row.missing, row.missing
            for kind, table in one.tables.items():
                assert_alike(row.tables[kind], table, "", kind)
            np.testing.assert_allclose(row.gradient_norm, one.gradient_norm, rtol=1e-5)
    assert_group_is_left_alone()


def check_transformers_trainer_with_fsdp2() -> None:
    assert_rows(trained_by_transformers(fsdp2=True), "net.")
    assert_group_is_left_alone()


def trained_with_accelerate(*, fsdp2: bool) -> Kept:
    """Train by a loop with an Accelerator, as the guide has it."""
    from accelerate import Accelerator

    forget_accelerate()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATED)
    if fsdp2:
        use_fsdp2(accelerator.state)
    net = model()
    net, optimizer = accelerator.prepare(net, adam(net))
    kept = Kept()
    with Monitor(net, optimizer=optimizer, sinks=[kept], **SETTINGS) as monitor:
        for batch in batches(rank(), RANKS):
            with accelerator.accumulate(net):
                accelerator.backward(loss_of(net(batch)))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(net.parameters(), MOST)
                optimizer.step()
                optimizer.zero_grad()
                if accelerator.sync_gradients:
                    monitor.step()
    return kept


def check_accelerate_with_ddp() -> None:
    assert_rows(trained_with_accelerate(fsdp2=False), "module.")
    assert_group_is_left_alone()


def check_accelerate_with_fsdp2() -> None:
    assert_rows(trained_with_accelerate(fsdp2=True))
    assert_group_is_left_alone()


# ---- a loop as torchtitan's


def initialised() -> nn.Module:
    net = model()
    initstats.init_(net, RECIPE, seed=0)
    return net


def check_torchtitan_loop_fsdp2_and_tensor_parallel_from_meta() -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    with torch.device("meta"):
        net = model()
    sharded(net, mesh["dp"], mesh["tp"])
    initstats.init_(net, RECIPE, seed=0, device="cpu")
    optimizer, kept = adam(net), Kept()
    with Monitor(net, optimizer=optimizer, sinks=[kept], **SETTINGS) as monitor:
        data = batches(mesh["dp"].get_local_rank(), 2)
        for _ in range(STEPS):
            optimizer.zero_grad()
            for i in range(ACCUMULATED):
                net.set_requires_gradient_sync(i == ACCUMULATED - 1)
                (loss_of(net(next(data))) / ACCUMULATED).backward()
            total = nn.utils.get_total_norm([p.grad for p in net.parameters()])
            assert isinstance(total, DTensor)
            nn.utils.clip_grads_with_norm_(net.parameters(), MOST, total.full_tensor())
            optimizer.step()
            monitor.step()
    assert_rows(kept, made=initialised, whole_outputs=False)
    assert_group_is_left_alone()


# ---- the guide


def check_the_examples_of_the_guide() -> None:
    """Each runs after the beginning that they share, and its rows are read as the last one does."""
    beginning, *loops, reading = EXAMPLE.findall(GUIDE.read_text())
    assert len(loops) == 6
    for loop in loops:
        folder = [tempfile.mkdtemp() if rank() == 0 else ""]
        dist.broadcast_object_list(folder, 0)
        os.chdir(folder[0])
        forget_accelerate()
        there: dict[str, Any] = {}
        with patch.object(dist, "init_process_group"):  # as by torchrun, of which there is one
            exec(beginning + loop, there)
        dist.barrier()
        if rank() == 0:
            if 'reduce="none"' in loop:
                files = sorted(map(str, Path().glob("run.rank*.jsonl")))
                done = CliRunner().invoke(app, ["merge", *files, "--output", "run.jsonl"])
                assert done.exit_code == 0, done.output
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(beginning + reading, there)
            rows = [line for line in printed.getvalue().splitlines() if " merged 4 [" in line]
            assert [int(row.split()[0]) for row in rows] == [1, 2, 3, 4], printed.getvalue()
            assert "is not in this row" not in printed.getvalue()
        assert_group_is_left_alone()


CHECKS = (
    check_lightning_ddp_in_a_group_that_it_makes_itself,
    check_lightning_model_parallel_fsdp2_and_tensor_parallel,
    check_lightning_goes_on_with_what_every_rank_has_measured,
    check_transformers_trainer_with_ddp,
    check_transformers_goes_on_with_what_every_rank_has_measured,
    check_transformers_trainer_with_fsdp2,
    check_accelerate_with_ddp,
    check_accelerate_with_fsdp2,
    check_torchtitan_loop_fsdp2_and_tensor_parallel_from_meta,
    check_the_examples_of_the_guide,
)
