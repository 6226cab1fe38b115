"""
What the admin asks of the proxy.

The law it keeps: the admin knows the proxy through :class:`AdminState` alone and keeps no copy of
anything; every answer is of the moment in which it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from meshproxy.observe.registry import Registry


class AdminState(Protocol):
    """The proxy, seen from the admin."""

    @property
    def registry(self) -> Registry:
        """Every number."""

    @property
    def version(self) -> str:
        """The package's version."""

    @property
    def started(self) -> float:
        """When the proxy was made, in seconds since 1970."""

    def ready(self) -> bool:
        """Whether traffic should be sent here."""

    def live(self) -> bool:
        """Whether the process should be left running."""

    def listeners(self) -> list[dict[str, Any]]:
        """Each listener, of what JSON can hold."""

    def clusters(self) -> list[dict[str, Any]]:
        """Each cluster with its endpoints, of what JSON can hold."""

    def certificates(self) -> list[dict[str, Any]]:
        """Each certificate of a listener or cluster, of what JSON can hold, without a key."""

    def filters(self) -> list[dict[str, Any]]:
        """Each filter, of what JSON can hold."""

    def shown(self, listener: str, label: str) -> Callable[[], Any] | None:
        """What tells what a filter shows, of what JSON can hold; None where there is nothing."""

    def configuration(self) -> dict[str, Any]:
        """The configuration in force, of what JSON can hold, without secrets."""

    def reopen_logs(self) -> None:
        """Open the access logs anew."""
