"""The page of the documentation that shows the examples: from their results and what they say.

python examples/page.py writes docs/examples.md; a test compares.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "examples.md"
ORDER = (
    "monitored_gpt",
    "sharded_model",
    "lottery",
    "scale_decay",
    "pruning",
    "warm_start",
    "new_head",
    "residual_scale",
)
HIDDEN = {"mean", "half"}  # of a row: what the figure is drawn from


def page() -> str:
    """Return the page."""
    parts = [(HERE / "README.md").read_text()]
    for name in ORDER:
        result = json.loads((RESULTS / f"{name}.json").read_text())
        parts.append(section(name, result))
    return "\n".join(parts)


def section(name: str, result: dict[str, Any]) -> str:
    """Return what the page says of one example."""
    title = (ast.get_docstring(ast.parse((HERE / f"{name}.py").read_text())) or "").split("\n\n")
    setting = ", ".join(f"{key} {value}" for key, value in result["setting"].items())
    lines = [f"## {name}", "", *title[:1], "", f"**{result['question']}**", ""]
    answer = RESULTS / f"{name}.md"  # looked at again whenever a result changes
    if answer.exists():
        lines += [answer.read_text()]
    columns = [key for key in result["rows"][0] if key not in HIDDEN]
    lines += ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    lines += [
        "| " + " | ".join(str(row.get(key, "")) for key in columns) + " |" for row in result["rows"]
    ]
    lines += ["", f"![{name}](../examples/results/{name}.png)", ""]
    lines += [f"Setting: {setting}. {result['machine']}, {result['seconds']} s.", ""]
    return "\n".join(lines)


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
