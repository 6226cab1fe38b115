"""Reports as a table for people and as JSON for programs; both say the same."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.benchmarks.figures import Report


def table(report: Report) -> str:
    """The report as aligned text: one row a proxy, then the ratios with the goals they were set."""
    rows = [
        ["proxy", *(column.title for column in report.columns), f"{report.reference} / it", "goal"]
    ]
    ratios = report.ratios()
    for name in report.samples:
        medians = report.medians(name)
        row = [name, *(f"{medians[column.key]:,.{column.digits}f}" for column in report.columns)]
        if name == report.reference:
            rows.append([*row, "", ""])
            continue
        ratio = median(ratios[name])
        spread = f"{ratio:.2f} ({min(ratios[name]):.2f}-{max(ratios[name]):.2f})"
        rows.append([*row, spread, _verdict(report, name, ratio)])
    lines = [f"{report.scenario}: {report.description}", *_aligned(rows)]
    lines.extend(f"  {name} {version}" for name, version in report.versions.items())
    lines.extend(f"  {name} skipped: {reason}" for name, reason in report.skipped.items())
    return "\n".join(lines) + "\n"


def _verdict(report: Report, peer: str, ratio: float) -> str:
    goal = report.goals.get(peer)
    if goal is None or report.reference != "meshproxy":
        return ""
    return f"≤ {goal:.2f} {'met' if ratio <= goal else 'MISSED'}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells.extend(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        lines.append("  " + "  ".join(cells).rstrip())
    return lines


def as_json(reports: Sequence[Report]) -> dict[str, Any]:
    """All reports as JSON-able values: medians, every round, ratios, what was skipped."""
    return {
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
        "scenarios": [_scenario(report) for report in reports],
    }


def _scenario(report: Report) -> dict[str, Any]:
    ratios = report.ratios()
    return {
        "scenario": report.scenario,
        "description": report.description,
        "reference": report.reference,
        "settings": dict(report.settings),
        "units": {column.key: column.title for column in report.columns},
        "proxies": {
            name: {
                "version": report.versions.get(name, ""),
                "median": report.medians(name),
                "rounds": rounds,
            }
            for name, rounds in report.samples.items()
        },
        "ratios": {
            peer: {"median": median(values), "rounds": values, "goal": report.goals.get(peer)}
            for peer, values in ratios.items()
        },
        "skipped": dict(report.skipped),
    }


def dumps(reports: Sequence[Report]) -> str:
    """as_json as indented text."""
    return json.dumps(as_json(reports), indent=2) + "\n"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), ""
    )
