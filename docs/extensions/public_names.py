"""Directive `public-names`: documents what a package of initstats has in its `__all__`."""

from __future__ import annotations

import importlib
import inspect
import re
from types import ModuleType

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import initstats

# Sections of docstrings that are one paragraph, with text on the line of their name.
_PARAGRAPH = re.compile(r"(Determinism|Source):\s+(\S.*)")
# Code in backticks, which stays, or a character that RST would read as markup.
_CODE_OR_MARKUP = re.compile(r"(?P<code>`+.+?`+)|[*|]|(?<=\w)_(?!\w)")


class PublicNames(SphinxDirective):
    """Documents the names of `__all__` of a package, under `initstats` where they are there too."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return what autodoc makes of each name."""
        package = importlib.import_module(self.arguments[0])
        lines: list[str] = []
        for name in sorted(package.__all__, key=str.lower):
            lines += documented(package, name)
        return self.parse_text_to_nodes("\n".join(lines))


def documented(package: ModuleType, name: str) -> list[str]:
    """Return the directives of autodoc for a name of a package; none for a module."""
    value = getattr(package, name)
    if inspect.ismodule(value):
        return []
    owner = value.__module__ if inspect.isclass(value) else ""
    if owner.startswith("initstats.") and owner != package.__name__:
        return []  # on the page of the package whose it is
    home = "initstats" if name in initstats.__all__ else package.__name__
    kind, options = "autodata", ["   :no-value:"]
    if inspect.isclass(value):
        kind, options = "autoclass", ["   :members:", "   :show-inheritance:"]
    elif callable(value):
        kind, options = "autofunction", []
    return [f".. py:currentmodule:: {home}", "", f".. {kind}:: {name}", *options, ""]


def as_rst(
    _app: Sphinx, what: str, _name: str, _value: object, _options: object, lines: list[str]
) -> None:
    """Turn a docstring that is written for people into RST, in place."""
    # Napoleon takes words before a colon in the first line of an attribute for its type: let an
    # empty comment be that line.
    text = ["..", ""] if what in {"attribute", "data", "property"} else []
    in_paragraph = in_code = False
    for line in lines:
        if line.startswith("```"):
            in_code = not in_code
            text += ["", ".. code-block:: python", ""] if in_code else [""]
            continue
        if in_code:
            text.append(f"   {line}")
            continue
        found = _PARAGRAPH.fullmatch(line)
        in_paragraph = found is not None or (in_paragraph and line.startswith("    "))
        if found:
            text += ["", f"**{found[1]}:** {_escaped(found[2])}"]
        elif line.lstrip().startswith((">>> ", "... ")):
            text.append(line)
        else:
            text.append(_escaped(line.strip() if in_paragraph else line))
    lines[:] = text


def _escaped(line: str) -> str:
    return _CODE_OR_MARKUP.sub(lambda found: found["code"] or f"\\{found[0]}", line)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive and the reading of docstrings."""
    app.add_directive("public-names", PublicNames)
    app.connect("autodoc-process-docstring", as_rst, priority=400)  # before napoleon, at 500
    return {"parallel_read_safe": True, "parallel_write_safe": True}
