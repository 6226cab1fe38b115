"""
The numbers for a person and for a small program.

The laws it keeps:

- Every series appears as ``name{label="value",…}``, and that text is what a filter is searched in.
- A filter cannot hold the proxy up: patterns that could take long are refused, and the search is
  given up after :data:`SECONDS`.
"""

from __future__ import annotations

import itertools
import math
import re
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from meshproxy.observe.registry import Family, Registry

#: Characters of a filter.
LONGEST = 200

#: Seconds for looking through all series.
SECONDS = 0.25

_REPEATED_GROUP = re.compile(r"(?<!\\)(?:\\\\)*\)[*+?{]")
_REPEATS = re.compile(r"(?<!\\)(?:\\\\)*[*+{]")


class BadFilter(ValueError):
    """A filter that is not searched for, and why."""


def compile_filter(pattern: str) -> re.Pattern[str]:
    """
    The filter's regular expression.

    Raises :class:`BadFilter` when it is not one, is too long, or has a repeated group or more than
    three repetitions: what such a search costs grows without bounds.
    """
    if len(pattern) > LONGEST:
        raise BadFilter(f"a filter has at most {LONGEST} characters")
    if _REPEATED_GROUP.search(pattern):
        raise BadFilter("a filter has no repeated groups")
    if len(_REPEATS.findall(pattern)) > 3:
        raise BadFilter("a filter has at most three repetitions")
    try:
        with warnings.catch_warnings():
            # A pattern that a later Python may read otherwise is none of our log's business.
            warnings.simplefilter("ignore", FutureWarning)
            return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise BadFilter(f"not a regular expression: {error}") from None


def select(
    registry: Registry,
    pattern: re.Pattern[str] | None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[str, Family, dict[str, str], int]]:
    """
    (text, family, labels, first slot) of each series that the filter finds, sorted by text.

    Raises :class:`BadFilter` when that takes longer than :data:`SECONDS` of ``clock``.
    """
    limit = clock() + SECONDS
    found = []
    for family in registry.families:
        for key, slot in family.series.items():
            text = _text(family, key)
            if pattern is not None:
                if pattern.search(text) is None:
                    continue
                if clock() > limit:
                    raise BadFilter("this filter takes too long")
            found.append((text, family, dict(zip(family.label_names, key, strict=True)), slot))
    return iter(sorted(found, key=lambda item: item[0]))


def as_text(registry: Registry, pattern: re.Pattern[str] | None) -> str:
    """A line a series: ``name{labels}: value``; of a histogram count, sum and percentiles."""
    registry.refresh()
    values = registry.values
    lines = []
    for text, family, _, slot in select(registry, pattern):
        if family.kind == "histogram":
            shown = _summary(family, values[slot : slot + family.width])
        else:
            shown = f"{values[slot]:g}" if values[slot] % 1 else f"{int(values[slot])}"
        lines.append(f"{text}: {shown}\n")
    return "".join(lines)


def as_json(registry: Registry, pattern: re.Pattern[str] | None) -> dict[str, Any]:
    """``{"stats": [{"name", "kind", "labels", "value" | "count", "sum", "buckets"}]}``."""
    registry.refresh()
    values = registry.values
    stats: list[dict[str, Any]] = []
    for _, family, labels, slot in select(registry, pattern):
        entry: dict[str, Any] = {"name": family.name, "kind": family.kind, "labels": labels}
        if family.kind == "histogram":
            counts = values[slot : slot + family.width - 1]
            bounds = [*family.bounds, None]
            entry["count"] = sum(counts)
            entry["sum"] = values[slot + family.width - 1]
            entry["buckets"] = [
                {"le": bound, "count": count}
                for bound, count in zip(bounds, itertools.accumulate(counts), strict=True)
            ]
        else:
            entry["value"] = values[slot]
        stats.append(entry)
    return {"stats": stats}


def _text(family: Family, key: tuple[str, ...]) -> str:
    labels = ",".join(
        f'{name}="{_escaped(value)}"' for name, value in zip(family.label_names, key, strict=True)
    )
    return f"{family.name}{{{labels}}}" if labels else family.name


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _summary(family: Family, slots: list[float]) -> str:
    *counts, total = slots
    count = sum(counts)
    words = [f"count={int(count)}", f"sum={total:g}"]
    if count:
        sums = list(itertools.accumulate(counts))
        bounds = (*family.bounds, math.inf)
        for percent in (50, 90, 99):
            wanted = count * percent / 100
            bound = next(
                bound for bound, so_far in zip(bounds, sums, strict=True) if so_far >= wanted
            )
            words.append(f"p{percent}<={bound:g}")
    return " ".join(words)
