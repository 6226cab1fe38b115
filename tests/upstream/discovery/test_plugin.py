"""Endpoints that a plugin finds: judged like those of a configuration, whatever it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from zope.interface.verify import verifyObject

from meshproxy.interfaces import IDiscovery
from meshproxy.observe.fitted import Chosen
from meshproxy.observe.registry import Registry
from meshproxy.upstream.discovery.plugin import PluginDiscovery
from meshproxy.upstream.endpoint import EndpointSpec


class Source:
    """A plugin that does what it is told."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.stopped = 0

    def start(self, update: Callable[[Any], None], failed: Callable[[str], None]) -> None:
        """Keep what is called."""
        if self.fails == "start":
            raise OSError("no network")
        self.update, self.failed = update, failed

    def stop(self) -> None:
        """Count."""
        self.stopped += 1
        if self.fails == "stop":
            raise OSError("no end")

    def describe(self) -> Any:
        """A word."""
        if self.fails == "describe":
            raise OSError("no words")
        return {"source": "test", "bad": object()} if self.fails == "json" else {"source": "test"}


class Made:
    """A started discovery, and what it told."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.registry = Registry()
        self.told: list[list[EndpointSpec]] = []
        self.reasons: list[str] = []
        fitted = Chosen(source, "s", "discovery", "", "api", self.registry, lambda: 0.0)
        self.discovery = PluginDiscovery(fitted)
        self.discovery.start(lambda specs: self.told.append([*specs]), self.reasons.append)

    @property
    def errors(self) -> float:
        """Exceptions counted."""
        return self.registry.values[0]


def test_it_is_a_discovery() -> None:
    """It goes where any source goes."""
    assert verifyObject(IDiscovery, PluginDiscovery(Made(Source()).discovery._fitted))


def test_texts_mappings_and_specs() -> None:
    """A plugin gives what `endpoints` takes, or specs."""
    made = Made(Source())
    spec = EndpointSpec("k", 2, ("127.0.0.1", 3), "127.0.0.1:3")
    mapping = {"address": "127.0.0.1:2", "weight": 5, "labels": {"a": "b"}, "priority": 1}
    made.source.update(["127.0.0.1:1", mapping, spec])
    made.source.update(iter(()))
    (first, second, third), none = made.told
    assert (first.text, first.sockaddr, first.weight) == ("127.0.0.1:1", ("127.0.0.1", 1), 1)
    assert (second.weight, second.labels, second.priority) == (5, {"a": "b"}, 1)
    assert third is spec
    assert none == []
    assert made.reasons == []


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("127.0.0.1:1", "a list of endpoints is expected, not a text"),
        (5, "'int' object is not iterable"),
        (["127.0.0.1:1", "nonsense"], "[1]"),
        ([{"address": "127.0.0.1:1", "weight": 0}], "[0].weight"),
        ([{"address": "127.0.0.1:1", "wait": 1}], "[0].wait"),
        ([{}], "[0]"),
        (["host.example:1"], "[0]: an address is needed, and 'host.example:1' is a name"),
        (["127.0.0.1:1"] * 2, "[1]: the address 127.0.0.1:1 is there already"),
    ],
)
def test_all_or_nothing(given: Any, reason: str) -> None:
    """One endpoint that is none spoils the set: what was known stays, and the reason is told."""
    made = Made(Source())
    made.source.update(given)
    assert made.told == []
    assert len(made.reasons) == 1
    assert made.reasons[0].startswith(reason)


def test_what_it_raises_is_counted() -> None:
    """A start that raises is a failure; stop and describe are safe to call."""
    made = Made(Source("start"))
    assert made.reasons == ["it did not start: no network"]
    assert made.errors == 1
    made = Made(Source("stop"))
    made.discovery.stop()
    assert (made.source.stopped, made.errors) == (1, 1)
    made = Made(Source("describe"))
    assert made.discovery.describe() == {"error": "it cannot say"}
    assert made.errors == 1
    made = Made(Source("json"))
    assert made.discovery.describe() == {"error": "it cannot say"}
    assert made.errors == 1
    assert Made(Source()).discovery.describe() == {"source": "test"}


def test_nothing_is_heard_after_the_end() -> None:
    """A plugin whose timer runs on changes nothing any more."""
    made = Made(Source())
    made.source.failed("slow today")
    made.discovery.stop()
    made.source.update(["127.0.0.1:1"])
    made.source.failed("late")
    assert (made.told, made.reasons) == ([], ["slow today"])
