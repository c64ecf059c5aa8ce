"""Models over four processes; what each rank checks is in tests/support/model_ranks.py."""

from __future__ import annotations

import pytest

import model_ranks
from gloo_ranks import run_checks


@pytest.mark.long
def test_every_check_holds_on_every_rank() -> None:
    wrong = run_checks(model_ranks.CHECKS, seconds=180)
    assert not any(wrong.values()), "\n".join(text for texts in wrong.values() for text in texts)
