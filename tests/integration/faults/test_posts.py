"""What may have had an effect is not sent twice; what cannot have had one is."""

from __future__ import annotations

import pytest

from tests.integration.faults.mesh import Mesh, slug
from tests.integration.faults.servers import (
    AnyFault,
    ClosesAfterEach,
    ClosesAtRandom,
    ClosesBeforeTheHead,
    ClosesInTheBody,
    DropsSyns,
    Faulty,
    Garbage,
    Refuses,
    ResetsBeforeTheHead,
    ResetsInTheBody,
    StallsBeforeTheHead,
)
from tests.integration.faults.traffic import Outcome, run

#: Nothing of a request reaches these.
UNREACHABLE = (Refuses, DropsSyns)
#: These read the whole request.
READERS = (
    ResetsBeforeTheHead,
    ClosesBeforeTheHead,
    ResetsInTheBody,
    ClosesInTheBody,
    StallsBeforeTheHead,
    ClosesAfterEach,
    ClosesAtRandom,
    Garbage,
    AnyFault,
)


def _posted(faults: Mesh, kind: type[Faulty]) -> Outcome:
    clients, each = (8, 14) if kind.stalls else (5, 40)
    return run(faults.ask("retries", kind, methods=("POST", "GET")), clients, each)


@pytest.mark.parametrize("kind", READERS, ids=slug)
def test_a_post_reaches_one_server_once(faults: Mesh, kind: type[Faulty]) -> None:
    """Every GET is answered well; no POST was seen twice, by one server or by two."""
    outcome = _posted(faults, kind)
    assert [line for line in outcome.wrong if " GET " in line] == []
    servers = (faults.faulty[slug(kind)], *faults.honest)
    posted = [key for key in outcome.answered if int(key.rpartition("-")[2]) % 2 == 0]
    posted += [line.partition(" ")[0] for line in outcome.wrong]
    assert len(posted) == outcome.requests / 2
    seen = {key: sum(server.arrived[key] for server in servers) for key in posted}
    assert {key: count for key, count in seen.items() if count > 1} == {}
    assert all(seen[key] == 1 for key in outcome.answered if key in seen)


@pytest.mark.parametrize("kind", UNREACHABLE, ids=slug)
def test_a_post_that_left_nothing_is_sent_elsewhere(faults: Mesh, kind: type[Faulty]) -> None:
    """Where no connection came up every POST is answered, by the one server that saw it."""
    outcome = _posted(faults, kind)
    outcome.judge()
    for key in outcome.answered:
        assert sum(server.arrived[key] for server in faults.honest) == 1
