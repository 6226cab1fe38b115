"""One of three upstreams has a fault: with retries, no client notices, whatever the fault is."""

from __future__ import annotations

import pytest

from tests.integration.faults.mesh import Mesh, slug
from tests.integration.faults.servers import (
    FAULTS,
    SIZES,
    AnyFault,
    BadChunk,
    ClosesInTheBody,
    Dawdles,
    Faulty,
    Honest,
    NeverAccepts,
    ResetsInTheBody,
    StallsInTheBody,
)
from tests.integration.faults.traffic import run


@pytest.mark.parametrize("kind", FAULTS, ids=slug)
def test_retries_hide_it(faults: Mesh, kind: type[Faulty]) -> None:
    """Every response is right although a third of all first tries meet the fault."""
    clients, each = (8, 15) if kind.stalls else (5, 40)
    outcome = run(faults.ask("retries", kind), clients, each)
    outcome.judge()
    assert outcome.requests == clients * each
    assert faults.second_tries("retries", kind) > 0
    assert faults.proxy.process.poll() is None


@pytest.mark.parametrize("kind", FAULTS, ids=slug)
def test_breakers_spare_the_others_from_it(faults: Mesh, kind: type[Faulty]) -> None:
    """With a breaker beside the retries every response is right, and few tries meet the fault."""
    before = faults.second_tries("both", kind)
    outcome = run(faults.ask("both", kind), 5, 30)
    outcome.judge()
    if not kind.sometimes:
        assert faults.count("both", kind, "ejections_total") > 0
        assert faults.second_tries("both", kind) - before < outcome.requests / 5


@pytest.mark.parametrize(
    "kind", [ResetsInTheBody, ClosesInTheBody, StallsInTheBody, BadChunk], ids=slug
)
def test_streams_that_break_off(faults: Mesh, kind: type[Faulty]) -> None:
    """Bodies of unknown length are held back too where the route says so."""
    ask = faults.ask("both", kind, query="?chunked", methods=("GET",))
    run(ask, 4, 5 * len(SIZES)).judge()


def test_without_a_fault_nothing_is_sent_twice(faults: Mesh) -> None:
    """The control: three honest servers, each with its share, and no second try."""
    outcome = run(faults.ask("both", Honest), 5, 60)
    outcome.judge()
    assert faults.second_tries("both", Honest) == 0
    seen = [
        sum(server.arrived[key] for key in outcome.answered)
        for server in (faults.faulty[slug(Honest)], *faults.honest)
    ]
    assert sum(seen) == outcome.requests
    assert min(seen) > outcome.requests / 5


def test_a_stall_costs_one_try(faults: Mesh) -> None:
    """What waits in vain is given up after per_try_timeout, not after the route's timeout."""
    outcome = run(faults.ask("both", NeverAccepts), 4, 20)
    outcome.judge()
    assert faults.count("both", NeverAccepts, "per_try_timeouts_total") > 0


@pytest.mark.parametrize("kind", [AnyFault, Dawdles, NeverAccepts, StallsInTheBody], ids=slug)
def test_hedging_hides_it(faults: Mesh, kind: type[Faulty]) -> None:
    """Tries beside slow ones, and retries of those that fail: every response is right."""
    outcome = run(faults.ask("hedged", kind), 8, 15)
    outcome.judge()
    if kind is not AnyFault:
        assert faults.count("hedged", kind, "hedges_total") > 0


@pytest.mark.parametrize("kind", [ResetsInTheBody, ClosesInTheBody], ids=slug)
def test_what_cannot_be_hidden_is_told(faults: Mesh, kind: type[Faulty]) -> None:
    """
    Where nothing is held back a body may break off, and the client knows: it never ends well.

    Nothing of a second answer follows the first; answers without a body are all right.
    """
    outcome = run(faults.ask("direct", kind), 5, 40)
    assert outcome.wrong
    for line in outcome.wrong:
        assert "Broken: the connection ended after" in line or "ConnectionReset" in line, line
    assert len(outcome.wrong) < outcome.requests / 2
