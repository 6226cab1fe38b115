"""Overload: when actions begin and end, and what they do to the listeners."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.python import log

from meshproxy import overload as module
from meshproxy.config import load
from meshproxy.config.overload import Overload as Model
from meshproxy.http.h1.server import ServerConnection
from meshproxy.http.listener import HttpListener
from meshproxy.overload import CALM, Overload
from tests.http.world import PLAIN, Transport, World, get, ok, status
from tests.http.world import world as world

Make = Callable[..., World]


class Fake:
    """A monitor that says what it is told, or raises."""

    def __init__(self) -> None:
        self.value = 0.0
        self.started = False
        self.fails = False

    def start(self) -> None:
        """Note it."""
        self.started = True

    def stop(self) -> None:
        """Note it."""
        self.started = False

    def read(self) -> float:
        """What it was told."""
        if self.fails:
            raise OSError("nothing can be read")
        return self.value


class Port:
    """A listening port."""

    def __init__(self) -> None:
        self.connected = True
        self.reading: Any = True  # a type checker takes what was asserted once to be so for ever

    def startReading(self) -> None:
        """Accept."""
        assert self.connected
        self.reading = True

    def stopReading(self) -> None:
        """Leave them waiting."""
        assert self.connected
        self.reading = False


class Listening:
    """A listener and its port."""

    def __init__(self, room: Any) -> None:
        self.room = room
        self.port = Port()


class Watched:
    """An overload over one HTTP listener, with fakes for what is measured."""

    def __init__(self, made: World, model: dict[str, Any]) -> None:
        self.made = made
        self.lag, self.memory, self.descriptors = Fake(), Fake(), Fake()
        self.listening: list[Any] = [Listening(made.listener)]
        self.overload = Overload(
            Model.model_validate(model),
            lambda: self.listening,
            made.registry,
            made.clock,
            monitors={
                "loop_lag": self.lag,
                "memory": self.memory,
                "file_descriptors": self.descriptors,
            },
            wholes={"memory": lambda: 1000.0, "file_descriptors": lambda: 200.0},
            now=made.clock.seconds,
        )

    @property
    def port(self) -> Any:
        """The listener's port."""
        return self.listening[0].port

    def looks(self, count: int = 1) -> tuple[str, ...]:
        """Let it look so many times; what is being done then."""
        self.made.turn(0.25 * count)
        return self.overload.active

    def metric(self, name: str, **labels: str) -> float:
        """A metric of the overload."""
        families = {family.name: family for family in self.made.registry.families}
        family = families[f"meshproxy_overload_{name}"]
        return self.made.value(family.series[tuple(labels.values())])


@pytest.fixture
def watch(world: Make) -> Iterator[Callable[..., Watched]]:
    """Watch a world by a model; it is stopped afterwards, and nothing may be left."""
    held: list[Watched] = []

    def make(**model: Any) -> Watched:
        held.append(Watched(world(), model))
        held[-1].overload.start()
        return held[-1]

    yield make
    for one in held:
        one.overload.stop()
        assert not any(fake.started for fake in (one.lag, one.memory, one.descriptors))
        one.made.settle()


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged."""
    found: list[str] = []

    def observe(event: dict[str, Any]) -> None:
        found.append(log.textFromEventDict(event) or "")

    log.addObserver(observe)
    yield found
    log.removeObserver(observe)


def ask(made: World) -> int:
    """A request on a new connection: the status that it is answered with by now."""
    client = made.client(get())
    made.turn()
    if not client.sent:
        made.upstream.receive(ok(b"fine"))
        made.turn()
    return status(client.sent)


def test_it_begins_at_the_threshold_and_ends_when_calm(watch: Callable[..., Watched]) -> None:
    """503 from the look that finds it on, until some looks in a row were well under it."""
    one = watch(shed={"loop_lag": "200ms"})
    one.lag.value = 0.19
    assert one.looks() == ()
    assert ask(one.made) == 200
    one.lag.value = 0.2
    assert one.looks() == ("shed",)
    assert ask(one.made) == 503
    one.lag.value = 0.1
    assert one.looks(CALM - 1) == ("shed",)
    assert one.looks() == ()
    assert ask(one.made) == 200


def test_it_does_not_flap(watch: Callable[..., Watched]) -> None:
    """Around the threshold it stays on; one look in between begins the counting anew."""
    one = watch(shed={"loop_lag": "200ms"})
    for value in (0.2, 0.19, 0.2, 0.185, 0.19, 0.19, 0.19, 0.19, 0.19):
        one.lag.value = value
        assert one.looks() == ("shed",)
    assert one.metric("actions_total", action="shed") == 1
    one.lag.value = 0.1
    one.looks(CALM - 1)
    one.lag.value = 0.185
    one.looks()
    one.lag.value = 0.1
    assert one.looks(CALM - 1) == ("shed",)
    assert one.looks() == ()


def test_any_resource_begins_it_and_all_must_be_calm(watch: Callable[..., Watched]) -> None:
    """One over its threshold is enough, and one that is near its own keeps it on."""
    one = watch(shed={"loop_lag": "200ms", "memory": "50%"})
    one.memory.value, one.lag.value = 500.0, 0.01
    assert one.looks() == ("shed",)
    one.memory.value, one.lag.value = 100.0, 0.19
    assert one.looks(2 * CALM) == ("shed",)
    one.lag.value = 0.01
    assert one.looks(CALM) == ()


def test_actions_are_apart(watch: Callable[..., Watched]) -> None:
    """Each has its own thresholds; shares are of what the machine has."""
    one = watch(
        shed={"memory": "90%"},
        stop_accepting={"file_descriptors": "95%", "memory": 980},
        shorten_idle={"file_descriptors": 100, "to": "2s"},
    )
    listener = one.made.listener
    one.descriptors.value = 100.0
    assert one.looks() == ("shorten_idle",)
    assert (listener.idle_timeout, one.port.reading) == (2.0, True)
    one.memory.value = 900.0
    assert one.looks() == ("shed", "shorten_idle")
    one.memory.value = 980.0
    assert one.looks() == ("shed", "stop_accepting", "shorten_idle")
    assert one.port.reading is False
    one.memory.value = one.descriptors.value = 0.0
    assert one.looks(CALM) == ()
    assert (listener.idle_timeout, one.port.reading) == (3600.0, True)
    one.descriptors.value = 190.0
    assert one.looks() == ("stop_accepting", "shorten_idle")
    assert one.port.reading is False


def test_requests_in_flight_are_counted(watch: Callable[..., Watched]) -> None:
    """Two that wait for an answer are two; when they are over, requests are served again."""
    one = watch(shed={"active_requests": 2})
    clients = [one.made.client(get()) for _ in range(2)]
    assert one.looks() == ("shed",)
    assert ask(one.made) == 503
    for upstream in one.made.upstreams:
        upstream.receive(ok(b"fine"))
    one.made.turn()
    assert [status(client.sent) for client in clients] == [200, 200]
    assert one.looks(CALM) == ()
    assert ask(one.made) == 200


def test_everything_is_counted_and_said(watch: Callable[..., Watched], lines: list[str]) -> None:
    """Metrics tell how near it is and what is on; the log says when and why it begins and ends."""
    one = watch(
        shed={"memory": "50%", "loop_lag": "100ms"},
        stop_accepting={"file_descriptors": 100, "active_requests": 50},
    )
    one.memory.value, one.lag.value, one.descriptors.value = 250.0, 0.01, 150.0
    one.looks()
    assert one.metric("pressure", action="shed", resource="memory") == 0.5
    assert one.metric("pressure", action="shed", resource="loop_lag") == pytest.approx(0.1)
    assert one.metric("pressure", action="stop_accepting", resource="file_descriptors") == 1.5
    assert one.metric("active", action="shed") == 0
    assert one.metric("active", action="stop_accepting") == 1
    assert one.metric("actions_total", action="stop_accepting") == 1
    assert one.overload.describe() == {
        "shed": {"active": False, "pressure": 0.5, "by": "memory"},
        "stop_accepting": {"active": True, "pressure": 1.5, "by": "file_descriptors"},
    }
    one.descriptors.value, one.lag.value = 20.0, 0.312
    one.looks(CALM)
    said = [line for line in lines if line.startswith("overload ")]
    assert said == [
        "overload action=stop_accepting state=begins resource=file_descriptors value=150 limit=100",
        "overload action=shed state=begins resource=loop_lag value=312ms limit=100ms",
        "overload action=stop_accepting state=ends resource=file_descriptors value=20 limit=100",
    ]
    one.lag.value, one.memory.value = 0.0, float(5 << 20)
    one.looks()
    one.lag.value = one.memory.value = 0.0
    one.looks(CALM)
    assert lines[-1] == "overload action=shed state=ends resource=loop_lag value=0ms limit=100ms"


def test_a_listener_that_comes_later_is_no_exception(watch: Callable[..., Watched]) -> None:
    """A reload's new listener is under what is on with the next look; one that went is let go."""
    one = watch(shed={"memory": "50%"}, stop_accepting={"memory": "50%"})
    made = one.made
    one.memory.value = 600.0
    one.looks()
    text = PLAIN.replace("- to: site", "- respond: { body: fine }")
    model = load(text, "later.yaml").configuration.listeners["web"]
    later = HttpListener(made.clock, made.wheel, made.registry, "later", model, {}, None)

    def asked() -> int:
        client = Transport(made.clock)
        client.start(ServerConnection(later, b"192.0.2.1:5000", b"192.0.2.1"))
        client.receive(get())
        made.turn()
        client.end()
        made.turn()
        return status(client.sent)

    assert asked() == 200
    one.listening = [Listening(later)]
    one.looks()
    assert one.port.reading is False
    assert asked() == 503
    assert list(one.overload._sheds) == [later]
    assert ask(made) == 200
    one.memory.value = 0.0
    one.looks(CALM)
    assert one.listening[0].port.reading is True
    assert asked() == 200


def test_a_port_that_is_not_there_is_left_alone(watch: Callable[..., Watched]) -> None:
    """Not bound yet, or closed already."""
    one = watch(stop_accepting={"memory": "50%"})
    port = one.port
    port.connected = False
    one.memory.value = 600.0
    one.looks()
    assert port.reading is True
    one.listening[0].port = None
    assert one.looks() == ("stop_accepting",)


def test_memory_is_given_back_while_it_lacks(
    watch: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Now and then, also when another resource is worse; never while no action is on."""
    relieved: list[float] = []
    one = watch(shed={"memory": "50%", "loop_lag": "100ms"})
    monkeypatch.setattr(module, "relieve", lambda: relieved.append(one.made.clock.seconds()))
    one.memory.value = 490.0
    one.looks(8)
    assert relieved == []
    one.lag.value = 1.0
    one.looks(80)
    assert len(relieved) == 2
    assert relieved[1] - relieved[0] == pytest.approx(10.0)
    one.memory.value = 100.0
    one.looks(80)
    assert len(relieved) == 2


def test_stopping_lets_go_of_everything(watch: Callable[..., Watched]) -> None:
    """Accepting, serving, idle times as configured, and no call left; twice does no harm."""
    one = watch(
        shed={"memory": "50%"}, stop_accepting={"memory": "50%"}, shorten_idle={"memory": "50%"}
    )
    one.memory.value = 600.0
    assert len(one.looks()) == 3
    one.overload.stop()
    one.overload.stop()
    assert one.overload.active == ()
    assert one.metric("active", action="shed") == 0
    assert (one.port.reading, one.made.listener.idle_timeout) == (True, 3600.0)
    assert ask(one.made) == 200
    one.overload.start()
    assert len(one.looks()) == 3


def test_a_look_that_fails_is_logged_and_the_next_one_comes(
    watch: Callable[..., Watched], lines: list[str]
) -> None:
    """A bug in a monitor does not end the watching; what was on stays on."""
    one = watch(shed={"memory": "50%"})
    one.memory.value = 600.0
    one.looks()
    one.memory.fails = True
    assert one.looks() == ("shed",)
    assert any("looking whether the proxy is overloaded" in line for line in lines)
    one.memory.fails = False
    one.memory.value = 0.0
    assert one.looks(CALM) == ()


def test_only_what_is_asked_for_is_measured(world: Make) -> None:
    """No call every 50 ms for a lag that no action asks for."""
    made = world()
    real = Overload(
        Model.model_validate({"shed": {"active_requests": 9}}), list, made.registry, Clock()
    )
    assert real._monitors == {}
    real.start()
    assert len(real._clock.getDelayedCalls()) == 1
    real.stop()
    assert real._clock.getDelayedCalls() == []


def test_the_real_monitors_measure(world: Make) -> None:
    """With nothing replaced: this process is over a byte and one descriptor."""
    made = world()
    everything = {
        "loop_lag": "1m",
        "memory": 1,
        "file_descriptors": "100%",
        "active_requests": 1,
    }
    real = Overload(
        Model.model_validate({"shed": everything, "shorten_idle": {"file_descriptors": 1}}),
        lambda: [Listening(made.listener)],
        made.registry,
        made.clock,
    )
    real.start()
    made.turn(0.25)
    assert real.active == ("shed", "shorten_idle")
    real.stop()
    made.settle()
