"""Callbacks of other libraries: a row per optimizer step, whatever is accumulated."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributed import group

from initstats.monitoring import Monitor
from monitored import Kept, small_model

QUIET = pytest.mark.filterwarnings("ignore")  # of these libraries about themselves


@QUIET
def test_transformers_trainer_writes_a_row_per_step(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from initstats.integrations.for_transformers import MonitorCallback

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_model()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"loss": self.net(x).square().mean()}

    kept = Kept()
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=3,
        gradient_accumulation_steps=2,
        per_device_train_batch_size=4,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    data = [{"x": torch.randn(8)} for _ in range(64)]
    trainer = transformers.Trainer(
        Model(), arguments, train_dataset=data, callbacks=[MonitorCallback(every=1, sinks=[kept])]
    )
    trainer.train()
    assert [row.step for row in kept.rows] == [1, 2, 3]
    tables = kept.rows[1].tables
    assert tables["activations"]["net.0"].count == 2 * 4 * 16
    assert tables["gradients"]["net.0.weight"].l2 > 0
    assert tables["updates"]["net.0.weight"].abs_max > 0


@QUIET
def test_lightning_writes_a_row_per_step(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")
    from initstats.integrations.for_lightning import MonitorCallback

    class Model(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = small_model()

        def training_step(self, x: Tensor, _index: int) -> Tensor:
            return self.net(x).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    kept = Kept()
    trainer = lightning.Trainer(
        max_steps=3,
        accumulate_grad_batches=2,
        callbacks=[MonitorCallback(every=1, sinks=[kept], group=lambda: group.WORLD)],
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = torch.utils.data.DataLoader([torch.randn(8) for _ in range(64)], batch_size=4)
    trainer.fit(Model(), data)
    assert [row.step for row in kept.rows] == [1, 2, 3]
    assert kept.rows[1].ranks is None  # the same script on one device: there is no group
    tables = kept.rows[1].tables
    assert tables["activations"]["net.0"].count == 2 * 4 * 16
    assert tables["gradients"]["net.0.weight"].l2 > 0
    assert tables["updates"]["net.0.weight"].abs_max > 0


@QUIET
def test_accelerate_needs_no_callback() -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model, optimizer = accelerator.prepare(model, optimizer)
    kept = Kept()
    with Monitor(model, optimizer=optimizer, every=1, sinks=[kept]) as monitor:
        for _ in range(2):
            accelerator.backward(model(torch.randn(5, 8)).square().mean())
            optimizer.step()
            optimizer.zero_grad()
            if accelerator.sync_gradients:
                monitor.step()
    assert [row.step for row in kept.rows] == [1, 2]
    assert kept.rows[1].tables["updates"]["0.weight"].abs_max > 0


@pytest.mark.parametrize(
    ("name", "library", "extra"),
    [
        ("for_lightning", "lightning.pytorch", "lightning"),
        ("for_transformers", "transformers", "transformers"),
    ],
)
def test_a_missing_library_is_an_error_that_names_the_extra(
    name: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"initstats.integrations.{name}", raising=False)
    with pytest.raises(ImportError, match=rf"pip install initstats\[{extra}\]"):
        importlib.import_module(f"initstats.integrations.{name}")
