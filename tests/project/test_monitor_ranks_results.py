"""What the monitor costs several ranks: the guide's table is that of the results, below the bar."""

from __future__ import annotations

import json

from benchmarks.monitor_ranks import BAR, BLOCK, CASES, PAGE, ROOT, shares, table


def test_the_table_is_that_of_the_results() -> None:
    found = BLOCK.search(PAGE.read_text())
    assert found is not None
    assert found[2] == table(ROOT / found[1])


def test_everything_in_every_step_stays_below_the_bar_on_each_rank() -> None:
    found = BLOCK.search(PAGE.read_text())
    assert found is not None
    cases = json.loads((ROOT / found[1]).read_text())["cases"]
    assert list(cases) == list(CASES)
    for case in cases:
        assert max(shares(cases[case])) <= BAR, case
