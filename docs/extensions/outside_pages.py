"""Pages of the site that are files outside docs/, and links to such files."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
PAGES = {ROOT / "CHANGELOG.md": "changelog.md", ROOT / "CONTRIBUTING.md": "contributing.md"}
_INCLUDE = re.compile(r"```\{include\} (\S+)\n```\n")
_LINK = re.compile(r"\[([^\]\n]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def expand(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put an included file in place of its directive, and let links lead to pages of the site."""
    folder = (Path(app.srcdir) / docname).parent
    base, text = folder, source[0]
    if included := _INCLUDE.fullmatch(text):
        file = (folder / included[1]).resolve()
        app.env.note_dependency(str(file))
        base, text = file.parent, file.read_text()

    def led_to_a_page(link: re.Match[str]) -> str:
        words, target, place = link[1], (base / link[2]).resolve(), link[3] or ""
        if not target.exists():
            return link[0]  # of the web, or code that looks like a link
        if target in PAGES:
            target = Path(app.srcdir) / PAGES[target]
        elif target.suffix == ".md" and not target.is_relative_to(app.srcdir):
            return f"{words} (in the repository)"
        return f"[{words}]({os.path.relpath(target, folder)}{place})"

    source[0] = _LINK.sub(led_to_a_page, text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the reading of pages."""
    app.connect("source-read", expand)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
