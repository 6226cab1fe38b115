"""
The clusters, and the certificates, for a person to read.

The law it keeps: what the programs' answer lacks is shown as ``-``, never guessed; a text from
elsewhere (a label, an error) cannot break a line.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_COLUMNS = (
    "address",
    "weight",
    "priority",
    "health",
    "breaker",
    "active",
    "connections",
    "answered",
    "failed",
    "note",
)

_CERTIFICATE = ("owner", "names", "not_after", "days_left", "key", "ocsp", "file")


def certificates_text(certificates: Sequence[Mapping[str, Any]]) -> str:
    """A line for each certificate, the one that ends first at the top."""
    ordered = sorted(certificates, key=lambda entry: entry.get("days_left", float("inf")))
    rows = [_CERTIFICATE, *(tuple(_certificate(entry)) for entry in ordered)]
    return "".join(f"{line}\n" for line in _lined(rows))


def _certificate(entry: Mapping[str, Any]) -> Iterable[str]:
    owner = "listener" if entry.get("listener") else "cluster"
    yield _word(f"{owner}={entry.get(owner, '-')}")
    yield _word(",".join(entry.get("names", ())))
    days = entry.get("days_left")
    yield _word(entry.get("not_after"))
    yield "-" if days is None else f"{days:.1f}"
    for name in ("key", "ocsp"):
        yield _word(entry.get(name))
    yield _word(next(iter(entry.get("files", ())), None))


def clusters_text(clusters: Sequence[Mapping[str, Any]]) -> str:
    """A paragraph for each cluster: a line about it, and a table of its endpoints."""
    return "\n".join("".join(f"{line}\n" for line in _cluster(cluster)) for cluster in clusters)


def _cluster(cluster: Mapping[str, Any]) -> Iterable[str]:
    endpoints = cluster.get("endpoints", ())
    words = [
        f"{key}={_word(value)}"
        for key, value in cluster.items()
        if key != "name" and isinstance(value, (str, int, float)) and value != ""
    ]
    yield " ".join((_word(cluster.get("name")), *words, *_limits(cluster.get("limits"))))
    source = cluster.get("source")
    if isinstance(source, Mapping):
        words = [
            f"{key}={_word(_plain(key, value))}"
            for key, value in source.items()
            if value is not None and value != "" and value != []
        ]
        yield " ".join(("  source:", *words))
    if not endpoints:
        yield "  no endpoints"
        return
    rows = [_COLUMNS, *(tuple(_cell(entry, name) for name in _COLUMNS) for entry in endpoints)]
    if all(row[-1] == "-" for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    for line in _lined(rows):
        yield f"  {line}"


def _lined(rows: Sequence[tuple[str, ...]]) -> Iterable[str]:
    """Rows whose columns stand below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _limits(limits: Any) -> Iterable[str]:
    """What is used of what there is at most: ``requests=3/1024``."""
    if not isinstance(limits, Mapping):
        return
    for name, value in limits.items():
        if isinstance(value, Mapping):
            for key, pair in value.items():
                yield f"{key if name == 'default' else f'{name}.{key}'}={_pair(pair)}"
        else:
            yield f"{name}={_pair(value)}"


def _pair(pair: Any) -> str:
    used, most = pair
    return f"{_word(used)}/{_word(most)}"


def _cell(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name)
    if name == "health":
        healthy = entry.get("healthy")
        value = None if healthy is None else "healthy" if healthy else "unhealthy"
    elif name == "note":
        value = _note(entry)
    return _word(value)


def _note(entry: Mapping[str, Any]) -> str:
    """Why an endpoint gets nothing."""
    notes = []
    health, ejection = entry.get("health"), entry.get("ejection")
    if isinstance(health, Mapping) and not health.get("healthy", True):
        notes.append(f"{health.get('check', 'check')}: {health.get('reason', '')}")
    if isinstance(ejection, Mapping):
        seconds = ejection.get("seconds")
        end = "" if seconds is None else f", {seconds:.1f} s left"
        notes.append(f"{ejection.get('reason', 'ejected')}{end}")
    return "; ".join(notes)


def _plain(key: str, value: Any) -> Any:
    """What a source says of itself, without what only a program wants to know."""
    if key.startswith("last_") and isinstance(value, (int, float)):
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(value))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(
            str(item.get("name", "-")) if isinstance(item, Mapping) else str(item) for item in value
        )
    return value


def _word(value: Any) -> str:
    """The value as one word, so that columns stay columns."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if not text.isprintable() or " " in text or '"' in text:
        text = "".join(c if c.isprintable() else " " for c in text).replace('"', "'")
        text = f'"{text}"'
    return text
