"""Monitor as a callback of the transformers Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from initstats.integrations.saving import LOG, of_another_rank, state_or_nothing
from initstats.monitoring import Monitor
from initstats.sinks.extras import require

_transformers = require("transformers", "integrations.for_transformers", "transformers")


class MonitorCallback(_transformers.TrainerCallback):  # type: ignore[misc, name-defined]
    """Watch the model while `Trainer.train` runs.

    Each checkpoint gets the state of the monitor as a file, `initstats_monitor.pt`, of each process
    one. A run that goes on from a checkpoint goes on from that state. The Trainer does not tell
    callbacks which checkpoint it has loaded: it is looked for where
    `TrainingArguments(resume_from_checkpoint=...)` points, and in `output_dir`.

    Args:
        resume_from: The folder of the checkpoint, for a run that goes on from one elsewhere.
        **settings: Arguments of `initstats.Monitor` but model and optimizer.
    """

    def __init__(self, *, resume_from: str | Path | None = None, **settings: Any) -> None:
        super().__init__()
        self._settings = settings
        self._resume_from = resume_from
        self._monitor: Monitor | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Attach."""
        del control
        self.on_train_end()  # a trainer that tries again after an error
        self._monitor = Monitor(
            kwargs["model"],
            optimizer=kwargs["optimizer"],
            first_step=state.global_step + 1,
            **self._settings,
        )
        if state.global_step and (saved := self._saved(args, state)) is not None:
            self._monitor.load_state_dict(saved)
        self._monitor.attach()

    def on_step_end(self, *_args: Any, **_kwargs: Any) -> None:
        """Step: the Trainer calls this once per step of the optimizer."""
        if self._monitor is not None:
            self._monitor.step()

    def on_save(self, args: Any, state: Any, *_control: Any, **_kwargs: Any) -> None:
        """Put the state of the monitor into the checkpoint that was written."""
        file = _folder(args, state) / _name(args.process_index)
        if self._monitor is None or not file.parent.is_dir():
            return
        if saved := state_or_nothing(self._monitor):
            try:
                torch.save(saved, file)
            except (OSError, RuntimeError) as error:  # torch's for a disk that is full
                LOG.warning("the checkpoint holds no state of the monitor: %s", error)

    def on_train_end(self, *_args: Any, **_kwargs: Any) -> None:
        """Write the open window and close."""
        if self._monitor is not None:
            self._monitor.close()

    def _saved(self, args: Any, state: Any) -> dict[str, Any] | None:
        """Return the state of the checkpoint that training goes on from, None if it has none."""
        given = self._resume_from or args.resume_from_checkpoint
        folder = Path(given) if isinstance(given, (str, Path)) else _folder(args, state)
        if _is_of(folder, state):
            file, first = folder / _name(args.process_index), folder / _name(0)
            if file.is_file():
                return _loaded(file)
            if first.is_file():  # this rank was late, or is new
                return of_another_rank(_loaded(first))
        LOG.warning("no state of the monitor of step %d in %s", state.global_step, folder)
        return None


def _folder(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _name(process: int) -> str:
    """Return the name of the file of a process, as the Trainer names those of generators."""
    return f"initstats_monitor_{process}.pt" if process else "initstats_monitor.pt"


def _loaded(file: Path) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(file, weights_only=True)
    return saved


def _is_of(folder: Path, state: Any) -> bool:
    """Tell whether a checkpoint is the one that was loaded, and not that of another run."""
    file = folder / "trainer_state.json"
    if not file.is_file():
        return False
    saved = _transformers.TrainerState.load_from_json(str(file))
    return (saved.global_step, saved.log_history) == (state.global_step, state.log_history)
