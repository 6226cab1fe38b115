"""The clusters, and the certificates, as a person reads them."""

from __future__ import annotations

from typing import Any

from meshproxy.admin.table import certificates_text, clusters_text

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


def test_notes_say_why() -> None:
    """A last column, where there is something to tell: a failed check, an open breaker."""
    ill = {
        **ENDPOINT,
        "health": {"check": "http", "healthy": False, "reason": "status 500"},
        "ejection": {"reason": "consecutive", "seconds": 12.34},
    }
    probed = {**ENDPOINT, "ejection": {"reason": "local"}, "health": {"healthy": True}}
    text = clusters_text([{"name": "api", "endpoints": [ill, probed, ENDPOINT]}])
    _, names, *rows = text.splitlines()
    at = names.index("note")
    assert [row[at:] for row in rows] == [
        '"http: status 500; consecutive, 12.3 s left"',
        "local",
        "-",
    ]


def test_clusters_are_apart() -> None:
    """An empty line stands between them; one without endpoints says so, with its source."""
    source = {
        "kind": "dns",
        "endpoints": 0,
        "names": [{"name": "api:1", "next": 5.0}, {"name": "site:2"}],
        "where": ["127.0.0.1:53", "127.0.0.2:53"],
        "last_success": 1_700_000_000.5,
        "last_error": 'no such name: "api\n.example"',
        "waiting": None,
    }
    text = clusters_text(
        [
            {"name": "api", "source": source, "endpoints": []},
            {"name": "site", "endpoints": [ENDPOINT]},
        ]
    )
    api, site = text.split("\n\n")
    assert api.splitlines() == [
        "api",
        (
            "  source: kind=dns endpoints=0 names=api:1,site:2 where=127.0.0.1:53,127.0.0.2:53 "
            "last_success=2023-11-14T22:13:20Z last_error=\"no such name: 'api .example'\""
        ),
        "  no endpoints",
    ]
    assert site.startswith("site\n")


def test_nothing_at_all() -> None:
    """A proxy without clusters has an empty page."""
    assert clusters_text([]) == ""


def test_certificates() -> None:
    """What ends first is at the top; what does not apply is a dash."""
    text = certificates_text(
        [
            {"cluster": "api", "names": [], "not_after": "2031-01-01T00:00:00Z", "days_left": 99.0},
            {
                "listener": "web",
                "names": ["a.example", "*.a.example"],
                "not_after": "2030-01-01T00:00:00Z",
                "days_left": 3.25,
                "key": "RSA 2048",
                "ocsp": "good",
                "files": ["/etc/a.pem", "/etc/a.key"],
            },
        ]
    )
    names, one, other = text.splitlines()
    assert names.split() == ["owner", "names", "not_after", "days_left", "key", "ocsp", "file"]
    assert one.split("  ")[:2] == ["listener=web", "a.example,*.a.example"]
    assert " ".join(one.split()).endswith('2030-01-01T00:00:00Z 3.2 "RSA 2048" good /etc/a.pem')
    assert " ".join(other.split()) == "cluster=api - 2031-01-01T00:00:00Z 99.0 - - -"


def test_no_certificates() -> None:
    """A proxy without TLS has a head without rows."""
    assert certificates_text([]).split()[0] == "owner"
