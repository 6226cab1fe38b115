"""Places in a document: a way of keys and indices, and how it is written for a person.

Law: `render` is for reading; nothing ever takes such a text apart again.
"""

from __future__ import annotations

import re

from meshproxy.config.unfit import quoted

__all__ = ["Path", "render"]

Path = tuple[str | int, ...]
"""The way from the document to a part of it: keys of mappings and indices of lists."""

_SIMPLE = re.compile(r"[A-Za-z0-9_-]{1,64}")


def render(path: Path) -> str:
    """Return `path` as `listeners.web.http.hosts['a.example'].routes[2].to`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _SIMPLE.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f"[{quoted(step)}]"
    return text
