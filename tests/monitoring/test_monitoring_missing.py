"""What rows of four processes lack, and say; each check is in tests/support/missing_ranks.py."""

from __future__ import annotations

import pytest

import missing_ranks
from gloo_ranks import Check, run_checks


@pytest.fixture(scope="module")
def wrong() -> dict[str, list[str]]:
    """What went wrong in each check, by rank."""
    return run_checks(missing_ranks.CHECKS)


@pytest.mark.long
@pytest.mark.parametrize("check", missing_ranks.CHECKS, ids=lambda check: check.__name__)
def test_on_every_rank(check: Check, wrong: dict[str, list[str]]) -> None:
    assert not wrong[check.__name__], "\n".join(wrong[check.__name__])
