"""Sphinx's settings; ``sphinx-build -W docs docs/_build`` must be clean."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

from meshproxy import __version__  # noqa: E402

project = "meshproxy"
author = "The meshproxy authors"
copyright = f"2026, {author}"  # noqa: A001
version = release = __version__

extensions = ["configuration_reference", "filter_options"]
exclude_patterns = ["_build", "_ext", "examples"]
nitpicky = True
html_theme = "furo"
html_title = f"meshproxy {__version__}"
html_static_path: list[str] = []
