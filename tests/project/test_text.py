"""Tables and numbers for people."""

from __future__ import annotations

from initstats.text import plain_table, render


def test_titles_and_captions_of_tables_are_on_the_left_and_taken_literally() -> None:
    table = plain_table("runs of [bold] :smile:", caption="two rows")
    table.add_column("a column that is wider than the title")
    table.add_row("1")
    lines = render(table).splitlines()
    assert lines[0] == "runs of [bold] :smile:"
    assert lines[-1] == "two rows"


def test_tables_without_edge_begin_in_the_first_column() -> None:
    for edge in (True, False):
        table = plain_table(edge=edge)
        table.add_column("name")
        table.add_row("value")
        assert render(table).strip("\n").splitlines()[0].startswith("name") is not edge
