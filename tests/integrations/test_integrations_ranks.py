"""Loops of other libraries on four processes; what each rank checks is in integration_ranks.py."""

from __future__ import annotations

import pytest

import integration_ranks
from gloo_ranks import Check, run_checks


@pytest.fixture(scope="module")
def wrong() -> dict[str, list[str]]:
    """What went wrong in each check, by rank."""
    for library in ("lightning.pytorch", "transformers", "accelerate"):
        pytest.importorskip(library)
    return run_checks(integration_ranks.CHECKS, seconds=150.0)


@pytest.mark.long
@pytest.mark.parametrize("check", integration_ranks.CHECKS, ids=lambda check: check.__name__)
def test_on_every_rank(check: Check, wrong: dict[str, list[str]]) -> None:
    assert not wrong[check.__name__], "\n".join(wrong[check.__name__])
