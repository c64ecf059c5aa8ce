"""Callbacks of other libraries: runs that go on from a checkpoint."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from initstats.monitoring import GradientSpike, Monitor, Row
from monitored import Kept, small_model

pytestmark = pytest.mark.filterwarnings("ignore")  # of these libraries about themselves


class Losing(nn.Module):
    """A model as the Trainer of transformers wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_model()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": self.net(x).square().mean()}


def trained(folder: Path, steps: int, *, given: dict[str, Any] | None = None, **how: Any) -> Any:
    """Train with the Trainer of transformers; return the rows and the rule on spikes."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from initstats.integrations.for_transformers import MonitorCallback

    kept, rule = Kept(), GradientSpike()
    callback = MonitorCallback(every=1, window=3, sinks=[kept], rules=[rule], **(given or {}))
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        report_to=[],
        save_steps=5,
        logging_steps=2,
        lr_scheduler_type="constant",
        use_cpu=True,
        disable_tqdm=True,
    )
    data = [{"x": x} for x in torch.randn(64, 8, generator=torch.Generator().manual_seed(1))]
    trainer = transformers.Trainer(Losing(), arguments, train_dataset=data, callbacks=[callback])
    trainer.train(**how)
    return kept.rows, rule


def test_transformers_goes_on_with_the_windows_and_the_norms_of_the_checkpoint(
    tmp_path: Path,
) -> None:
    whole, rule = trained(tmp_path / "a", 12)
    trained(tmp_path / "b", 5)
    rest, resumed = trained(tmp_path / "b", 12, resume_from_checkpoint=True)
    assert [row.steps for row in rest] == [(4, 5, 6), (7, 8, 9), (10, 11, 12)]
    for a, b in zip(whole[1:], rest, strict=True):
        assert np.allclose(a.gradient_norm, b.gradient_norm, rtol=1e-5)
    past = [one.state_dict()["past"] for one in (rule, resumed)]
    assert past[0].shape == past[1].shape == (12, 5)
    assert torch.allclose(past[0], past[1], rtol=1e-5)


def test_transformers_takes_no_state_of_another_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained(tmp_path / "here", 5)
    trained(tmp_path / "there", 5)
    elsewhere = tmp_path / "there/checkpoint-5"
    state = json.loads((elsewhere / "trainer_state.json").read_text())
    state["log_history"].append({"step": 5, "mine": 1.0})
    (elsewhere / "trainer_state.json").write_text(json.dumps(state))
    how = {"resume_from_checkpoint": str(elsewhere)}
    with caplog.at_level(logging.WARNING, "initstats.monitor"):
        rows, rule = trained(tmp_path / "here", 7, **how)
    assert [row.steps for row in rows] == [(6, 7)]
    assert len(rule.state_dict()["past"]) == 2
    assert "no state of the monitor of step 5" in caplog.text
    shutil.rmtree(tmp_path / "here")
    rows, rule = trained(tmp_path / "here", 7, given={"resume_from": elsewhere}, **how)
    assert [row.steps for row in rows] == [(4, 5, 6), (7,)]
    assert len(rule.state_dict()["past"]) == 7


def out_of_time(*_args: object) -> dict[str, Any]:
    raise TimeoutError("initstats.Monitor.state_dict: expected the reader to finish in 10 s")


def test_a_checkpoint_of_transformers_does_without_a_state_that_is_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING, "initstats.monitor"):
        patched.setattr(Monitor, "state_dict", out_of_time)
        rows, _ = trained(tmp_path, 5)
    assert [row.steps for row in rows] == [(1, 2, 3), (4, 5)]
    assert "the checkpoint holds no state of the monitor" in caplog.text
    rows, _ = trained(tmp_path, 7, resume_from_checkpoint=True)
    assert [row.steps for row in rows] == [(6, 7)]


def fitted(folder: Path, steps: int, optimizers: int, checkpoint: Path | None = None) -> list[Row]:
    """Train with Lightning, with one optimizer or with two that step by hand."""
    lightning = pytest.importorskip("lightning.pytorch")
    from initstats.integrations.for_lightning import MonitorCallback

    class Model(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = small_model()
            self.automatic_optimization = optimizers == 1

        def training_step(self, x: Tensor, _index: int) -> Tensor | None:
            loss = self.net(x).square().mean()
            if self.automatic_optimization:
                return loss
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()
            return None

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.net[2 * i].parameters(), 0.1) for i in range(optimizers)]

    kept = Kept()
    trainer = lightning.Trainer(
        max_steps=steps * optimizers,
        callbacks=[MonitorCallback(every=1, window=2, sinks=[kept])],
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = torch.utils.data.DataLoader([torch.randn(8) for _ in range(64)], batch_size=4)
    trainer.fit(Model(), data, ckpt_path=checkpoint)
    trainer.save_checkpoint(folder / "last.ckpt")
    return kept.rows


@pytest.mark.parametrize("optimizers", [1, 2])
@pytest.mark.parametrize("late", [False, True])
def test_lightning_numbers_the_steps_of_training_after_a_checkpoint(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    optimizers: int,
    late: bool,
) -> None:
    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING, "initstats.monitor"):
        if late:
            patched.setattr(Monitor, "state_dict", out_of_time)
        rows = fitted(tmp_path, 3, optimizers)
    assert [row.steps for row in rows] == [(1, 2), (3,)]
    assert ("the checkpoint holds no state of the monitor" in caplog.text) == late
    rows = fitted(tmp_path, 7, optimizers, tmp_path / "last.ckpt")
    assert [row.steps for row in rows] == [(4, 5), (6, 7)]


def test_lightning_takes_an_empty_state() -> None:
    pytest.importorskip("lightning.pytorch")
    from initstats.integrations.for_lightning import MonitorCallback

    callback = MonitorCallback(every=1)
    callback.load_state_dict({})
    assert callback.state_dict() == {}
