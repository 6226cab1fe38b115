"""
Overload: the resources are looked at, and what is configured is done before they run out.

The law it keeps:

- A look comes every ``interval`` and costs the path of a byte nothing; between overloads the
  listeners are as if there were none of this.
- An action begins when one of its resources reaches its threshold, and ends when all have stayed
  under nine tenths of theirs for :data:`CALM` looks, so that nothing flaps. Both are logged with
  the reason.
- What is in force is put in force again at every look: a listener that a reload brought, or a
  connection that became idle since, is no exception.
- Stopped, it has let go of every listener, and leaves no call behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from twisted.python import log

from meshproxy.config.overload import RESOURCES, Threshold
from meshproxy.http.listener import HttpListener
from meshproxy.http.shedding import HttpShedding
from meshproxy.observe.resources import (
    Descriptors,
    LoopLag,
    Memory,
    descriptor_limit,
    memory_limit,
    relieve,
)
from meshproxy.tcp.listener import TcpListener
from meshproxy.tcp.shedding import TcpShedding

if TYPE_CHECKING:
    import meshproxy.config.overload as config
    from meshproxy.observe.registry import Registry

#: An action ends under this share of its thresholds,
RELEASE = 0.9
#: after so many looks in a row.
CALM = 4
#: The loop's lag is measured so many times between two looks.
TICKS = 5
#: Seconds between two attempts to give memory back.
RELIEF = 10.0


class Monitor(Protocol):
    """Says how much of a resource is in use."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """End."""

    def read(self) -> float:
        """How much, in the resource's unit."""


class Served(Protocol):
    """A listener and its port, as :class:`meshproxy.service.Listening` is."""

    port: Any

    @property
    def room(self) -> Any:
        """The listener."""


class Action:
    """One thing that is done, from which values on, and whether it is being done."""

    def __init__(self, name: str, model: config.Action, registry: Registry) -> None:
        self.name = name
        self.on = False
        self.written: dict[str, Any] = {
            resource: getattr(model, resource)
            for resource in RESOURCES
            if getattr(model, resource) is not None
        }
        self.limits: dict[str, float] = {}
        #: The resource that is nearest to its threshold, or farthest over it.
        self.reason = ""
        #: Its reading as a share of the threshold.
        self.worst = 0.0
        self._cause = ""
        self._calm = 0
        self._values = registry.values
        self._active = registry.gauge(
            "meshproxy_overload_active", "1 while this is being done", {"action": name}
        )
        self._begun = registry.counter(
            "meshproxy_overload_actions_total", "How often this began", {"action": name}
        )
        self._pressure = {
            resource: registry.gauge(
                "meshproxy_overload_pressure",
                "The resource's use as a share of the threshold of the action",
                {"action": name, "resource": resource},
            )
            for resource in self.written
        }

    def settle_limits(self, wholes: dict[str, Callable[[], float]]) -> None:
        """Turn shares into amounts; ``wholes`` has what they are of, by resource."""
        for resource, written in self.written.items():
            if not isinstance(written, Threshold):
                self.limits[resource] = written
            elif written.percent:
                self.limits[resource] = written.of(wholes[resource]())
            else:
                self.limits[resource] = written.amount

    def judge(self, readings: dict[str, float]) -> None:
        """Begin, go on or end, by what the monitors say."""
        worst = -1.0
        for resource, limit in self.limits.items():
            share = self._values[self._pressure[resource]] = readings[resource] / limit
            if share > worst:
                worst, self.reason = share, resource
        self.worst = worst
        if worst >= 1.0:
            self._calm = 0
            if not self.on:
                self._switch(True, readings)
        elif self.on:
            self._calm = self._calm + 1 if worst < RELEASE else 0
            if self._calm >= CALM:
                self._switch(False, readings)

    def _switch(self, on: bool, readings: dict[str, float]) -> None:
        self.on = on
        self._calm = 0
        self._values[self._active] = int(on)
        self._values[self._begun] += on
        if on:
            self._cause = self.reason
        resource = self._cause
        log.msg(
            f"overload action={self.name} state={'begins' if on else 'ends'} resource={resource} "
            f"value={_shown(resource, readings[resource])} "
            f"limit={_shown(resource, self.limits[resource])}"
        )

    def presses(self, resource: str) -> bool:
        """Whether this resource is near its threshold, or over it."""
        slot = self._pressure.get(resource)
        return slot is not None and self._values[slot] >= RELEASE

    def end(self) -> None:
        """It is done no more, whatever the readings."""
        self.on = False
        self._calm = 0
        for slot in (self._active, *self._pressure.values()):
            self._values[slot] = 0


class Overload:
    """
    Watches the process and sheds its load as ``model`` says.

    ``served`` gives the listeners that there are now; ``clock`` provides ``IReactorTime``.
    ``monitors`` and ``wholes`` take the place of the real ones, by resource.
    """

    def __init__(
        self,
        model: config.Overload,
        served: Callable[[], Iterable[Served]],
        registry: Registry,
        clock: Any,
        *,
        monitors: dict[str, Monitor] | None = None,
        wholes: dict[str, Callable[[], float]] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._served = served
        self._registry = registry
        self._clock = clock
        self._now = now
        self._interval: float = model.interval
        self._call: Any = None
        self._spare: list[str] = [] if model.shed is None else model.shed.spare
        self._idle: float = 0.0 if model.shorten_idle is None else model.shorten_idle.to
        self._sheds: dict[Any, HttpShedding | TcpShedding] = {}
        self._wholes = wholes or {"memory": memory_limit, "file_descriptors": descriptor_limit}
        self._relieved = 0.0
        written = {
            "shed": model.shed,
            "stop_accepting": model.stop_accepting,
            "shorten_idle": model.shorten_idle,
        }
        self._actions = {
            name: Action(name, section, registry)
            for name, section in written.items()
            if section is not None
        }
        asked = {resource for action in self._actions.values() for resource in action.written}
        made: dict[str, Callable[[], Monitor]] = {
            "loop_lag": lambda: LoopLag(clock, self._interval / TICKS, now),
            "memory": Memory,
            "file_descriptors": Descriptors,
        }
        monitors = monitors or {}
        self._monitors: dict[str, Monitor] = {
            name: monitors[name] if name in monitors else make()
            for name, make in made.items()
            if name in asked
        }
        self._counts_requests = "active_requests" in asked
        self._shedding()  # so that their counters are there from the beginning

    @property
    def active(self) -> tuple[str, ...]:
        """What is being done now."""
        return tuple(name for name, action in self._actions.items() if action.on)

    def start(self) -> None:
        """Look from now on."""
        for action in self._actions.values():
            action.settle_limits(self._wholes)
        for monitor in self._monitors.values():
            monitor.start()
        self._call = self._clock.callLater(self._interval, self._look)

    def stop(self) -> None:
        """Look no more, and let go of the listeners: new connections are accepted again."""
        if self._call is None:
            return
        if self._call.active():
            self._call.cancel()
        self._call = None
        for monitor in self._monitors.values():
            monitor.stop()
        before = set(self.active)
        for action in self._actions.values():
            action.end()
        self._enforce(before, set())

    def describe(self) -> dict[str, Any]:
        """Each action, whether it is on, and how near its nearest threshold is."""
        return {
            name: {"active": action.on, "pressure": round(action.worst, 3), "by": action.reason}
            for name, action in self._actions.items()
        }

    def _look(self) -> None:
        self._call = self._clock.callLater(self._interval, self._look)
        try:
            before = set(self.active)
            sheds = self._shedding()
            readings = {name: monitor.read() for name, monitor in self._monitors.items()}
            if self._counts_requests:
                readings["active_requests"] = sum([shed.in_flight for _, shed in sheds])
            for action in self._actions.values():
                action.judge(readings)
            self._enforce(before, set(self.active))
        except Exception:
            log.err(None, "looking whether the proxy is overloaded")

    def _shedding(self) -> list[tuple[Served, HttpShedding | TcpShedding]]:
        """The listeners of now, each with what sheds its load."""
        held = self._sheds
        now = [(served, self._of(served.room)) for served in self._served()]
        if len(held) > len(now):
            for room in held.keys() - {served.room for served, _ in now}:
                shed = held.pop(room)
                shed.shed(False)  # it only finishes what it has
                shed.shorten_idle(0.0)
        return now

    def _of(self, room: Any) -> HttpShedding | TcpShedding:
        shed = self._sheds.get(room)
        if shed is None:
            if isinstance(room, HttpListener):
                shed = HttpShedding(room, self._registry, self._spare)
            else:
                assert isinstance(room, TcpListener)
                shed = TcpShedding(room, self._registry)
            self._sheds[room] = shed
        return shed

    def _enforce(self, before: set[str], now: set[str]) -> None:
        """Do what is to be done, at every look; undo what ended."""
        if not before and not now:
            return
        touched = before | now
        for served, shed in self._shedding():
            if "shed" in touched:
                shed.shed("shed" in now)
            if "shorten_idle" in touched:
                shed.shorten_idle(self._idle if "shorten_idle" in now else 0.0)
            if "stop_accepting" in touched:
                _accept(served.port, "stop_accepting" not in now)
        if self._now() >= self._relieved + RELIEF and any(
            action.on and action.presses("memory") for action in self._actions.values()
        ):
            # What was given back to Python's allocator alone would keep the action on for ever.
            relieve()
            self._relieved = self._now()


def _accept(port: Any, on: bool) -> None:
    """Let a port take connections, or leave them in the kernel's queue."""
    if port is None or not getattr(port, "connected", False):
        return  # not bound, or closed already
    if on:
        port.startReading()
    else:
        port.stopReading()


def _shown(resource: str, value: float) -> str:
    """A reading for the log: ``312ms``, ``912MiB``, ``1804``."""
    if resource == "loop_lag":
        return f"{value * 1000:.0f}ms"
    if resource == "memory":
        return f"{value / (1 << 20):.0f}MiB"
    return f"{value:.0f}"
