"""Render a page that needs no other file and no network: Jinja2 with style and script inline."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from initstats.drawing.charts import short, sortable


def render_page(package: str, template: str, **values: Any) -> str:
    """Render a template that extends `layout.html.j2`.

    A content security policy in the page forbids every request, and any style and script but its
    own. Every value is escaped.

    Args:
        package: The package that holds the template, such as `initstats.auditing.report`.
        template: Name of its file.
        values: What the template names; a missing one is an error.

    Returns:
        The page.
    """
    style, script = (
        (resources.files("initstats.drawing") / name).read_text(encoding="utf-8")
        for name in ("page.css", "page.js")
    )
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    inline = {"policy": policy, "style": Markup(style), "script": Markup(script)}
    return _environment(package).get_template(template).render(**inline, **values)


def write_page(path: Path, page: str) -> None:
    """Write a page; names that are no valid Unicode are written escaped.

    Args:
        path: The file.
        page: What `render_page` returned.
    """
    path.write_text(page, encoding="utf-8", errors="backslashreplace")


@cache
def _environment(package: str) -> Environment:
    """Return an environment with the templates of a package and of this one."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(p, "") for p in (package, "initstats.drawing")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"short": short, "sortable": sortable}
    return environment


def _hash(text: str) -> str:
    """Return the source expression that allows exactly this inline text."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
