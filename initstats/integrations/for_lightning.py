"""Monitor as a Lightning callback."""

from __future__ import annotations

from typing import Any

from initstats.integrations.saving import state_of_ranks, state_of_this_rank
from initstats.monitoring import Monitor
from initstats.sinks.extras import require

_lightning = require("lightning.pytorch", "integrations.for_lightning", "lightning")


class MonitorCallback(_lightning.Callback):  # type: ignore[misc, name-defined]
    """Watch the LightningModule while `Trainer.fit` runs, with all its optimizers.

    A step is a batch at whose end some optimizer has stepped: also of several optimizers, of which
    `Trainer.global_step` counts each. A checkpoint holds the state of the monitor.

    Args:
        **settings: Arguments of `initstats.Monitor` but model and optimizer.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self._settings = settings
        self._monitor: Monitor | None = None
        self._steps = 0
        self._state: dict[str, Any] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach."""
        self._steps = trainer.global_step
        self.on_train_end()  # a trainer that tries again after an error
        self._monitor = Monitor(
            pl_module,
            optimizer=trainer.optimizers,
            first_step=_steps_done(trainer, pl_module) + 1,
            **self._settings,
        )
        if state := state_of_this_rank(self._state):
            self._monitor.load_state_dict(state)
        self._state = {}
        self._monitor.attach()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the monitor, for Lightning's checkpoints.

        With `group=` it gathers those of all ranks, since the first one writes the checkpoint: all
        ranks call it, as they all call `Trainer.save_checkpoint`.

        Returns:
            The state; empty before training, and, with a message in the log, when the rows that are
            on their way were not written in time. A rank that is late is left out.
        """
        return state_of_ranks(self._monitor)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state for the monitor that the next training makes; an empty one is none."""
        self._state = state_dict

    def on_train_batch_end(self, trainer: Any, *_args: Any) -> None:
        """Step when the optimizer has stepped, not for every accumulated batch."""
        if self._monitor is not None and trainer.global_step != self._steps:
            self._steps = trainer.global_step
            self._monitor.step()

    def on_train_end(self, *_args: Any) -> None:
        """Write the open window and close."""
        if self._monitor is not None:
            self._monitor.close()

    def on_exception(self, *_args: Any) -> None:
        """Write the open window and close."""
        self.on_train_end()


def _steps_done(trainer: Any, module: Any) -> int:
    """Return how many steps of training came before, of a checkpoint without a monitor's state.

    Under manual optimization `global_step` counts every step of every optimizer; there a batch is a
    step.
    """
    if module.automatic_optimization:
        return int(trainer.global_step)
    return int(trainer.fit_loop.epoch_loop.batch_progress.total.ready)
