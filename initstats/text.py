"""Text for people: numbers, block names and rich renderables in terminals and in str()."""

from __future__ import annotations

import difflib
import html
import io
import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # rich is imported where it draws: it would double the time of `import initstats`
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

# Wide enough for the layer table of the audit; used where no terminal tells its width.
PLAIN_WIDTH = 100
# Outside these sizes `number` writes powers of ten, to stay within six columns.
_SMALLEST_PLAIN, _LARGEST_PLAIN = 1e-3, 1e5


def render(renderable: RenderableType, width: int = PLAIN_WIDTH) -> str:
    """Return a rich renderable as plain text.

    Args:
        renderable: A rich table, group, or the like.
        width: Columns of the text, > 0.

    Returns:
        The text, without colours.
    """
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    console.print(renderable)
    text = console.file.getvalue() if isinstance(console.file, io.StringIO) else ""
    return "\n".join(line.rstrip() for line in text.splitlines())


def render_html(renderable: RenderableType, width: int = PLAIN_WIDTH) -> str:
    """Return a rich renderable as HTML for a notebook: preformatted text in its colours.

    Args:
        renderable: A rich table, group, or the like.
        width: Columns of the text, > 0.

    Returns:
        The HTML, without a script and without a link.
    """
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, record=True, force_jupyter=False)
    console.print(renderable)
    style = "line-height: normal; overflow-x: auto"
    form = f'<pre style="{style}"><code>{{code}}</code></pre>'
    return console.export_html(inline_styles=True, code_format=form)


def frame_html(page: str, height: int = 600) -> str:
    """Return HTML for a notebook that shows a page in a frame, apart from the notebook's own.

    Args:
        page: The page; its scripts run, and see nothing of the notebook.
        height: Height of the frame in pixels.

    Returns:
        The HTML.
    """
    style = f"width: 100%; height: {height}px; border: 0"
    return f'<iframe srcdoc="{html.escape(page)}" sandbox="allow-scripts" style="{style}"></iframe>'


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a hint on the nearest name for the end of an error message.

    Args:
        name: What was given.
        names: What there is.

    Returns:
        Such as `; the nearest is 'gpt2'`, or nothing where no name is near.
    """
    # "GPT2" is near to "gpt2": case costs nothing.
    by_lower = {known.lower(): known for known in names}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f"; the nearest is {by_lower[near[0]]!r}" if near else ""


def plain_table(title: str = "", *, edge: bool = True, **options: Any) -> Table:
    """Return an empty rich table with a rule below its head and everything aligned to the left.

    Args:
        title: Heading, taken literally; empty for none.
        edge: Leave a blank line above and below, and a blank column on either side.
        **options: As `rich.table.Table` takes them, such as `caption` and `padding`.

    Returns:
        The table.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    return Table(
        title=Text(title, style="bold italic") if title else None,
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        show_edge=edge,
        pad_edge=edge,
        **options,
    )


def literal(*texts: str) -> tuple[Text, ...]:
    """Return texts as rich draws them, brackets in them included: names are no markup.

    Args:
        *texts: Any texts.

    Returns:
        One for each.
    """
    from rich.text import Text

    return tuple(Text(text) for text in texts)


def number(value: float | None) -> str:
    """Write a number in three significant digits and few columns.

    Args:
        value: Any number, or None for "there is none".

    Returns:
        At most six characters, seven with a sign, such as `0.0203`, `12.3`, `1.2e-5`, `nan`; `-`
        for None.
    """
    if value is None:
        return "-"
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    size = abs(value)
    if not _SMALLEST_PLAIN <= size < _LARGEST_PLAIN:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    digits = 2 - math.floor(math.log10(size))
    return f"{value:.{min(max(digits, 0), 4)}f}"


def block_pattern(name: str) -> str:
    """Replace the numbers in a dotted name by a star.

    Args:
        name: A dotted name, such as `h.3.mlp.c_fc.weight`.

    Returns:
        The name that all blocks share, such as `h.*.mlp.c_fc.weight`.
    """
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)
