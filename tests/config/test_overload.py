"""Thresholds of overload: amounts, shares, and what is refused."""

from __future__ import annotations

import pytest

from meshproxy.config import Configuration, load
from meshproxy.config.overload import Overload, Threshold
from tests.config.texts import SMALL, messages_of

SHARE = "a share is from 1% to 100%, and"


@pytest.mark.parametrize(
    ("overload", "expected"),
    [
        ("{ shed: { loop_lag: 200ms } }", []),
        ("{ interval: 1s, shed: { memory: 900MiB, spare: [/healthz] } }", []),
        ("{ stop_accepting: { memory: 95%, file_descriptors: 97.5% } }", []),
        ("{ shorten_idle: { file_descriptors: 50000, to: 1s } }", []),
        ("{ shed: { active_requests: 2000, memory: 1048576 } }", []),
        ("{}", ["one of 'shed', 'stop_accepting' and 'shorten_idle' is needed"]),
        (
            "{ interval: 0, shed: { memory: 1% } }",
            ["this duration cannot be 0"],
        ),
        (
            "{ interval: 9ms, shed: { memory: 1% } }",
            ["the resources are looked at every 10ms at most"],
        ),
        ("{ shed: {} }", ["this never begins without a threshold: one of 'loop_lag', 'memory',"]),
        ("{ shed: { spare: [/x] } }", ["this never begins without a threshold"]),
        ("{ shed: { memory: 0% } }", [f"{SHARE} '0%' is not"]),
        ("{ shed: { memory: 101% } }", [f"{SHARE} '101%' is not"]),
        ("{ shed: { file_descriptors: 200% } }", [f"{SHARE} '200%' is not"]),
        (
            "{ shed: { memory: 1GB } }",
            ["a size such as 900MiB or a share such as 90% is expected, not '1GB'; did you mean"],
        ),
        ("{ shed: { memory: 0 } }", ["this size cannot be 0"]),
        (
            "{ shed: { memory: true } }",
            ["a size such as 900MiB or a share such as 90% is expected"],
        ),
        (
            "{ shed: { file_descriptors: many } }",
            ["a number such as 50000 or a share such as 90% is expected, not 'many'"],
        ),
        ("{ shed: { file_descriptors: 0 } }", ["a number of descriptors is from 1 to"]),
        ("{ shed: { file_descriptors: true } }", ["a number such as 50000 or a share"]),
        ("{ shed: { active_requests: 90% } }", ["a whole number is expected"]),
        ("{ shed: { active_requests: 0 } }", ["this must be at least 1, and it is 0"]),
        ("{ shed: { loop_lag: 50% } }", ["a duration such as 250ms, 5s, 1m30s or 1h is expected"]),
        (
            "{ shed: { memory: 1%, spare: [healthz] } }",
            ["a path begins with '/', and 'healthz' do"],
        ),
        ("{ stop_accepting: { memory: 1%, to: 1s } }", ["unknown key 'to'"]),
        ("{ shorten_idle: { memory: 1%, to: 0 } }", ["this duration cannot be 0"]),
    ],
)
def test_overload(overload: str, expected: list[str]) -> None:
    """At least one action, each with a threshold in its resource's unit or as a share."""
    found = messages_of(f"overload: {overload}\n{SMALL}")
    assert len(found) == len(expected), found
    for message, beginning in zip(found, expected, strict=True):
        assert message.startswith(beginning)


def test_defaults() -> None:
    """There is no overload unless it is written; then it is looked for four times a second."""
    assert load(SMALL, "m.yaml").configuration.overload is None
    found = Overload.model_validate({"shorten_idle": {"memory": "90%"}})
    assert found.interval == 0.25
    assert found.shorten_idle is not None
    assert (found.shorten_idle.to, found.shorten_idle.loop_lag) == (5.0, None)


def test_thresholds_are_dumped_as_they_are_written() -> None:
    """What the admin shows of a configuration can be given back to it."""
    written = {
        "shed": {"memory": "97.5%", "file_descriptors": "90%"},
        "stop_accepting": {"memory": "900MiB", "file_descriptors": 5000},
    }
    model = Overload.model_validate(written)
    dumped = model.model_dump(mode="json", exclude_unset=True)
    assert dumped["shed"] == {"memory": "97.5%", "file_descriptors": "90%"}
    assert dumped["stop_accepting"] == {"memory": 900 << 20, "file_descriptors": 5000}
    assert Overload.model_validate(dumped) == model
    assert Configuration.model_fields["overload"].default is None


def test_the_amount_of_a_threshold() -> None:
    """A share is of the whole that the machine has; an amount is itself."""
    assert Threshold(90.0, True).of(2000.0) == 1800.0
    assert Threshold(5.0).of(2000.0) == 5.0
