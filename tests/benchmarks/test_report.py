"""The table and the JSON of a report."""

from __future__ import annotations

import json

from tests.benchmarks.figures import Column, Report
from tests.benchmarks.report import dumps, table


def _report(reference: str = "meshproxy") -> Report:
    return Report(
        "http",
        "a hundred routes",
        reference,
        (Column("cost", "CPU µs/request"), Column("rate", "requests/s", 0)),
        {
            reference: [{"cost": 20.0, "rate": 40000.0}],
            "envoy": [{"cost": 50.0, "rate": 16000.0}],
            "nginx": [{"cost": 10.0, "rate": 50000.0}],
        },
        {reference: "0.1", "envoy": "1.40.0"},
        {"haproxy-acl": "not installed"},
        {"envoy": 0.5, "nginx": 1.8},
        {"rounds": 1},
    )


def test_table_shows_figures_ratios_goals_and_what_was_skipped() -> None:
    """Each row ends with ratio, spread and goal; a skipped peer is named with its reason."""
    lines = table(_report()).splitlines()
    rows = {line.split()[0]: line for line in reversed(lines) if line.strip()}
    assert rows["meshproxy"].split() == ["meshproxy", "20.0", "40,000"]
    assert "0.40 (0.40-0.40)" in rows["envoy"]
    assert rows["envoy"].endswith("≤ 0.50 met")
    assert "2.00 (2.00-2.00)" in rows["nginx"]
    assert rows["nginx"].endswith("≤ 1.80 MISSED")
    assert "  haproxy-acl skipped: not installed" in lines
    assert "  envoy 1.40.0" in lines


def test_goals_are_meshproxys_own() -> None:
    """With peers alone there is nobody who has a goal to meet."""
    assert "≤" not in table(_report("haproxy-map"))


def test_json_says_what_the_table_says() -> None:
    """Medians, rounds, ratios with goals, units and skipped peers can all be read by a program."""
    found = json.loads(dumps([_report()]))
    assert set(found["machine"]) == {"processor", "cores", "kernel", "python"}
    (scenario,) = found["scenarios"]
    assert scenario["proxies"]["envoy"] == {
        "version": "1.40.0",
        "median": {"cost": 50.0, "rate": 16000.0},
        "rounds": [{"cost": 50.0, "rate": 16000.0}],
    }
    assert scenario["ratios"]["nginx"] == {"median": 2.0, "rounds": [2.0], "goal": 1.8}
    assert scenario["units"]["cost"] == "CPU µs/request"
    assert scenario["skipped"] == {"haproxy-acl": "not installed"}
