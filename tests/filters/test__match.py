"""Which requests a filter with ``match`` is about."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from meshproxy import api
from meshproxy.filters._match import Applies, compile_applies


def applies(match: dict[str, Any], **facts: Any) -> bool:
    """Whether a request with these facts is taken."""
    request = SimpleNamespace(
        method=facts.get("method", b"GET"),
        path=facts.get("path", b"/"),
        authority=b"a.example",
        headers=api.Headers.of(facts.get("headers", {}).items()),
    )
    test = compile_applies(Applies.model_validate(match))
    return test is None or test(SimpleNamespace(request=request))


def test_without_conditions_there_is_no_test() -> None:
    """Neither the option left out nor one that says nothing costs a request anything."""
    assert compile_applies(None) is None
    assert compile_applies(Applies()) is None


def test_paths() -> None:
    """One of the paths must match: whole, or as a mapping says; one alone needs no list."""
    match = {"paths": ["/login", {"prefix": "/api/"}]}
    assert applies(match, path=b"/login")
    assert applies(match, path=b"/api/x")
    assert not applies(match, path=b"/login/x")
    assert applies({"paths": {"suffix": ".php"}}, path=b"/x.php")
    assert not applies({"paths": "/login"}, path=b"/")


def test_all_that_is_written_must_hold() -> None:
    """Path, method and headers together."""
    match = {"paths": "/a", "methods": ["POST"], "headers": {"x-tier": "free", "host": "a.example"}}
    good: dict[str, Any] = {"path": b"/a", "method": b"POST", "headers": {b"x-tier": b"free"}}
    assert applies(match, **good)
    wrongs: list[dict[str, Any]] = [{"path": b"/b"}, {"method": b"GET"}, {"headers": {}}]
    for wrong in wrongs:
        assert not applies(match, **{**good, **wrong})
    assert not applies({"headers": {"host": "b.example"}})
    assert applies({"headers": {"x-tier": {"present": False}}})


@pytest.mark.parametrize("match", [{"paths": {}}, {"methods": ["get"]}, {"path": "/x"}])
def test_what_cannot_be_matched(match: dict[str, Any]) -> None:
    """Anything else is refused."""
    with pytest.raises(ValidationError):
        Applies.model_validate(match)
