"""Configuration of the documentation site, which `make docs` builds with warnings as errors."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "extensions")]

import initstats  # noqa: E402

project = "initstats"
version = release = initstats.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "outside_pages",
    "public_names",
    "results_tables",
]
exclude_patterns = ["extensions"]
myst_heading_anchors = 3

# Docstrings are written for people: single backticks for code, sections in Google style.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # fields of dataclasses are members as well, and documented once
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"initstats {release}"
html_show_copyright = False
html_copy_source = False
