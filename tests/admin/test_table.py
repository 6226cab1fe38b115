"""The clusters as a person reads them."""

from __future__ import annotations

from typing import Any

from meshproxy.admin.table import clusters_text

ENDPOINT: dict[str, Any] = {
    "address": "127.0.0.1:9001",
    "weight": 2,
    "priority": 0,
    "healthy": False,
    "breaker": "half_open",
    "active": 3,
    "connections": 12,
    "answered": 1000,
    "failed": 7,
}

OTHER: dict[str, Any] = {"address": "[2001:db8::1]:65535", "healthy": True}


def test_a_line_for_each_endpoint() -> None:
    """The columns stand below their names, whatever their width; what is missing is a dash."""
    text = clusters_text(
        [
            {
                "name": "api",
                "balance": "maglev",
                "limits": {
                    "connections": [3, 100],
                    "default": {"requests": [0, 1024], "retries": [0, None]},
                    "high": {"requests": [1, 10]},
                },
                "endpoints": [
                    ENDPOINT,
                    {"address": "[2001:db8::1]:65535", "healthy": True},
                ],
            }
        ]
    )
    first, names, one, other = text.splitlines()
    assert first == (
        "api balance=maglev connections=3/100 requests=0/1024 retries=0/- high.requests=1/10"
    )
    assert " ".join(names.split()) == " ".join(ENDPOINT).replace("healthy", "health")
    assert " ".join(one.split()) == "127.0.0.1:9001 2 0 unhealthy half_open 3 12 1000 7"
    assert " ".join(other.split()) == "[2001:db8::1]:65535 - - healthy - - - - -"
    for name in ("weight", "health", "active", "failed"):
        column = names.index(name)
        assert one[column - 1] == " " != one[column]
        assert other[column - 1] == " " != other[column]


def test_clusters_are_apart() -> None:
    """An empty line stands between them; one without endpoints says so, with its source."""
    source = {"kind": "dns", "error": 'no such name: "api\n.example"', "updated": None}
    text = clusters_text(
        [
            {"name": "api", "source": source, "endpoints": []},
            {"name": "site", "endpoints": [ENDPOINT]},
        ]
    )
    api, site = text.split("\n\n")
    assert api.splitlines() == [
        "api",
        "  source: kind=dns error=\"no such name: 'api .example'\"",
        "  no endpoints",
    ]
    assert site.startswith("site\n")


def test_nothing_at_all() -> None:
    """A proxy without clusters has an empty page."""
    assert clusters_text([]) == ""
