"""Records go to every access log, and a plugin's failure to nobody."""

from __future__ import annotations

from typing import Any

from meshproxy.observe.fitted import Chosen
from meshproxy.observe.registry import Registry
from meshproxy.observe.sinks import each, guarded


class Log:
    """An access log that fails for some records."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def log(self, record: Any) -> None:
        """Keep it, or raise."""
        if record == "bad":
            raise RuntimeError("no")
        self.seen.append(record)


def test_a_plugin_that_raises_is_counted() -> None:
    """Whoever logs gets no exception; the next record is taken again."""
    registry = Registry()
    plugin = Log()
    log = guarded(Chosen(plugin, "l", "access_log", "web", "", registry, lambda: 0.0))
    for record in ("a", "bad", "b"):
        log(record)
    assert plugin.seen == ["a", "b"]
    (family,) = registry.families
    assert family.name == "meshproxy_plugin_errors_total"
    assert family.label_names == ("kind", "listener", "cluster", "plugin")
    assert dict(family.series) == {("access_log", "web", "", "l"): 0}
    assert registry.values[0] == 1


def test_each_gets_every_record_in_order() -> None:
    """None is nothing to call, one is called itself, several in turn."""
    seen: list[str] = []

    def first(record: Any) -> None:
        seen.append(f"first {record}")

    def second(record: Any) -> None:
        seen.append(f"second {record}")

    assert each([]) is None
    assert each([first]) is first
    both = each([first, second])
    assert both is not None
    both("x")
    assert seen == ["first x", "second x"]
