"""transformers' own plan over two processes; the checks are in tests/support."""

from __future__ import annotations

import pytest

from gloo_ranks import run_checks


@pytest.mark.long
def test_every_check_holds_on_every_rank() -> None:
    pytest.importorskip("transformers.distributed")
    import transformers_ranks

    wrong = run_checks(transformers_ranks.CHECKS, ranks=2)
    assert not any(wrong.values()), "\n".join(text for texts in wrong.values() for text in texts)
