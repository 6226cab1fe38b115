"""How a place in a document is written."""

from __future__ import annotations

import pytest

from meshproxy.config.place import Path, render


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("workers",), "workers"),
        (("listeners", "web", "http", "routes", 2, "to"), "listeners.web.http.routes[2].to"),
        (("hosts", "a.example", "routes"), "hosts['a.example'].routes"),
        (("clusters", "by-name"), "clusters.by-name"),
        (("a b\n",), r"['a b\n']"),
    ],
)
def test_render(path: Path, text: str) -> None:
    """Keys are joined by dots, indices in brackets, and odd keys quoted."""
    assert render(path) == text
