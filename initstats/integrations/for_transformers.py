"""Monitor as a callback of the transformers Trainer."""

from __future__ import annotations

from typing import Any

from initstats.monitoring import Monitor
from initstats.sinks.extras import require

_transformers = require("transformers", "integrations.for_transformers", "transformers")


class MonitorCallback(_transformers.TrainerCallback):  # type: ignore[misc, name-defined]
    """Watch the model while `Trainer.train` runs.

    Args:
        **settings: Arguments of `initstats.Monitor` but model and optimizer.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self._settings = settings
        self._monitor: Monitor | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Attach."""
        del args, control
        self.on_train_end()  # a trainer that tries again after an error
        self._monitor = Monitor(
            kwargs["model"],
            optimizer=kwargs["optimizer"],
            first_step=state.global_step + 1,
            **self._settings,
        ).attach()

    def on_step_end(self, *_args: Any, **_kwargs: Any) -> None:
        """Step: the Trainer calls this once per step of the optimizer."""
        if self._monitor is not None:
            self._monitor.step()

    def on_train_end(self, *_args: Any, **_kwargs: Any) -> None:
        """Write the open window and close."""
        if self._monitor is not None:
            self._monitor.close()
