"""The filter health."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from meshproxy.api import Response
from meshproxy.filters.health import Health
from meshproxy.testing import Kit, drive


def made(**options: Any) -> Health:
    """The filter with these options, as a configuration would write them."""
    return Health(Health.Options.model_validate(options))


def test_health_checks_are_answered_here() -> None:
    """GET and HEAD of the path get 200 without an endpoint; everything else goes on."""
    driven = drive(made(), target=b"/healthz?x")
    assert driven.upstream is None
    assert (driven.status, driven.body, driven.details) == (200, b"ok", b"health_check_ok")
    head = drive(made(), target=b"/healthz", method=b"HEAD")
    assert (head.status, head.body, head.upstream) == (200, b"", None)
    for other in ({"target": b"/healthz/x"}, {"target": b"/healthz", "method": b"POST"}):
        assert drive(made(), **other).upstream is not None


def test_paths_of_its_own() -> None:
    """One path, or several."""
    assert drive(made(paths="/live"), target=b"/live").upstream is None
    assert drive(made(paths=["/a", "/b"]), target=b"/b").upstream is None
    assert drive(made(paths=["/a"]), target=b"/healthz").upstream is not None


def test_the_operators_file(tmp_path: Path) -> None:
    """While it is there checks fail; it is looked for at most once a second."""
    kit = Kit(directory=tmp_path)
    held = made(fail_file="drain")

    def check() -> int:
        return kit.drive(held, target=b"/healthz").status

    assert check() == 200
    (tmp_path / "drain").touch()
    kit.advance(0.9)
    assert check() == 200
    kit.advance(0.2)
    driven = kit.drive(held, target=b"/healthz")
    assert (driven.status, driven.body) == (503, b"failing")
    assert driven.details == b"health_check_fail_file"
    (tmp_path / "drain").unlink()
    assert check() == 503
    kit.advance(1.1)
    assert check() == 200
    assert kit.counters["failing"] == 2
    assert kit.counters["ok"] == 3


def test_other_requests_are_served_while_it_fails(tmp_path: Path) -> None:
    """The file tells balancers; it cuts nobody off."""
    (tmp_path / "drain").touch()
    kit = Kit(directory=tmp_path)
    assert kit.drive(made(fail_file="drain"), target=b"/").status == 200


def test_json() -> None:
    """For those who want to read more than a word."""
    kit = Kit()
    held = made(body="json")
    kit.attach(held)
    kit.advance(2.5)
    driven = kit.drive(held, target=b"/healthz")
    assert json.loads(driven.body) == {"status": "ok", "listener": "test", "uptime_seconds": 2.5}
    assert driven.headers.get(b"content-type") == b"application/json"


def test_one_of_many_is_passed_on() -> None:
    """The endpoint's answer serves for the others until its time is over."""
    kit = Kit()
    held = made(mode="pass", cache="5s")
    first = kit.drive(held, target=b"/healthz", response=Response(500, b"broken"))
    assert first.upstream is not None
    assert (first.status, first.body) == (500, b"broken")
    kit.advance(4.9)
    second = kit.drive(held, target=b"/healthz")
    assert second.upstream is None
    assert (second.status, second.body, second.details) == (500, b"failing", b"health_check_cached")
    kit.advance(0.2)
    third = kit.drive(held, target=b"/healthz")
    assert (third.status, third.body) == (200, b"ok\n")
    fourth = kit.drive(held, target=b"/healthz")
    assert (fourth.status, fourth.body, fourth.upstream) == (200, b"ok", None)
    assert kit.counters["passed"] == 2


def test_an_answer_without_a_body_is_given_without_one() -> None:
    """A status that forbids a body is repeated as it is."""
    kit = Kit()
    held = made(mode="pass", cache="5s")
    kit.drive(held, target=b"/healthz", response=Response(204))
    again = kit.drive(held, target=b"/healthz")
    assert (again.status, again.body, again.upstream) == (204, b"", None)


def test_while_one_is_asked_the_last_answer_is_given() -> None:
    """A slow endpoint is not asked by everybody at once."""
    kit = Kit()
    held = made(mode="pass", cache="5s")
    kit.drive(held, target=b"/healthz")
    kit.advance(6)
    slow = kit.drive(held, target=b"/healthz", response=None)
    assert slow.upstream is not None
    assert kit.drive(held, target=b"/healthz").upstream is None


def test_what_other_requests_get_is_not_kept() -> None:
    """Only health checks count as such."""
    kit = Kit()
    held = made(mode="pass", cache="5s")
    kit.drive(held, target=b"/", response=Response(500))
    kit.drive(held, target=b"/healthz", method=b"POST", response=Response(500))
    assert kit.drive(held, target=b"/healthz").upstream is not None


def test_the_file_decides_over_the_endpoint(tmp_path: Path) -> None:
    """An operator drains, whatever the endpoint says."""
    (tmp_path / "drain").touch()
    kit = Kit(directory=tmp_path)
    driven = kit.drive(made(mode="pass", fail_file="drain"), target=b"/healthz")
    assert (driven.status, driven.upstream) == (503, None)


@pytest.mark.parametrize(
    "options", [{"cache": "5s"}, {"paths": []}, {"paths": ["healthz"]}, {"mode": "ask"}]
)
def test_options_that_do_nothing_are_refused(options: dict[str, Any]) -> None:
    """They are found at start."""
    with pytest.raises(ValidationError):
        made(**options)


@pytest.mark.parametrize("status", [304, 400, 401, 416, 431])
def test_one_client_does_not_make_all_checks_fail(status: int) -> None:
    """What an endpoint says of a request's headers is not told to the next one."""
    kit = Kit()
    held = Health(Health.Options.model_validate({"mode": "pass", "cache": "10s"}))
    path = min(held._paths)
    assert kit.drive(held, target=path, response=Response(status)).status == status
    after = kit.drive(held, target=path, response=Response(200, b"well"))
    assert (after.status, after.body) == (200, b"well")
