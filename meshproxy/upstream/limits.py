"""
What a cluster may have under way, by priority.

The law it keeps: the numbers are plain attributes, which whoever begins and ends something adds
to and takes from; a limit is a comparison, never a call, on the path of a request. Connections
are shared by all priorities and counted in one place, ``LimitSet.connections``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshproxy.config import Limits as LimitsConfig
    from meshproxy.config import PriorityLimits, RetryBudget


class Limits:
    """What the requests of one priority have under way, and may have."""

    __slots__ = (
        "_budget",
        "_min_retries",
        "max_connections",
        "max_pending",
        "max_requests",
        "max_retries",
        "pending",
        "requests",
        "retries",
    )

    def __init__(self, config: PriorityLimits, budget: RetryBudget | None) -> None:
        self.requests = 0
        self.pending = 0
        self.retries = 0
        self.max_connections: int = config.connections
        self.max_pending: int = config.pending
        self.max_requests: int = config.requests
        self.max_retries: int = config.retries
        self._budget = None if budget is None else budget.percent / 100
        self._min_retries = 0 if budget is None else budget.min_concurrent

    def may_retry(self) -> bool:
        """Whether one more retry is allowed now; ``retries`` is for the caller to count."""
        return self.retries < self.most_retries()

    def most_retries(self) -> int:
        """How many retries may be under way now."""
        budget = self._budget
        if budget is None:
            return self.max_retries
        # ``requests`` holds those that wait, too.
        return max(self._min_retries, int(budget * self.requests))


class LimitSet:
    """The limits of a cluster: ``default`` and ``high`` (the same object when not configured)."""

    __slots__ = ("connections", "default", "high", "pools")

    def __init__(self, config: LimitsConfig, budget: RetryBudget | None) -> None:
        #: Connections of the whole cluster, those being opened included.
        self.connections = 0
        #: What the pools of the cluster share; belongs to the protocol that pools connections.
        self.pools: Any = None
        self.default = Limits(config, budget)
        self.high = self.default if config.high is None else Limits(config.high, budget)
