"""A proxy for the admin to ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshproxy.observe.registry import Registry


class State:
    """Satisfies :class:`meshproxy.admin.state.AdminState`."""

    version = "1.2.3"
    started = 1_700_000_000.0

    def __init__(self) -> None:
        self.registry = Registry()
        self.is_ready = True
        self.is_live = True
        self.reopened = 0

    def ready(self) -> bool:
        """As told."""
        return self.is_ready

    def live(self) -> bool:
        """As told."""
        return self.is_live

    def listeners(self) -> list[dict[str, Any]]:
        """One."""
        return [{"name": "web", "connections": 3}]

    def clusters(self) -> list[dict[str, Any]]:
        """One."""
        return [{"name": "api", "endpoints": [{"address": "127.0.0.1:9001"}]}]

    def certificates(self) -> list[dict[str, Any]]:
        """One."""
        return [{"listener": "web", "names": ["a.example"], "days_left": 12.5}]

    def filters(self) -> list[dict[str, Any]]:
        """One."""
        return [{"listener": "web", "name": "quota", "plugin": "quota", "shows": True}]

    def shown(self, listener: str, label: str) -> Callable[[], Any] | None:
        """One that shows something, and two that cannot."""
        return {
            ("web", "quota"): lambda: {"used": 3},
            ("web", "broken"): lambda: {"a": 1}["a secret"],
            ("web", "odd"): object,
        }.get((listener, label))

    def configuration(self) -> dict[str, Any]:
        """A small one."""
        return {"listeners": {"web": {}}}

    def reopen_logs(self) -> None:
        """Count it."""
        self.reopened += 1
