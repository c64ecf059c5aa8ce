"""Directive `results-tables`: a table of every results file of the benchmarks."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from benchmarks import results_file
from benchmarks.readme_table import table


class ResultsTables(SphinxDirective):
    """Writes a section per file of benchmarks/results, newest first."""

    def run(self) -> list[nodes.Node]:
        """Return the tables, as Markdown reads them."""
        newest_first = sorted(
            results_file.RESULTS.glob("*.json"), key=lambda path: path.stem[-30:], reverse=True
        )
        text = ""
        for path in newest_first:
            self.env.note_dependency(str(path))
            text += f"## {path.stem}\n\n{table(path)}\n"
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("results-tables", ResultsTables)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
