"""The filter respond."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from pydantic import ValidationError

from meshproxy.filters.respond import Respond
from meshproxy.tcp.kit import drive_connection


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"text": "grüß dich\n"}, "grüß dich\n".encode()),
        ({"base64": base64.b64encode(bytes(range(256))).decode()}, bytes(range(256))),
        ({"base64": "aGVs\n bG8=\n"}, b"hello"),
        ({"text": ""}, b""),
    ],
)
def test_what_is_sent(options: dict[str, Any], expected: bytes) -> None:
    """The bytes, and the end, to a client that says nothing and to one that does."""
    respond = Respond(Respond.Options(**options))
    for received in ([], [b"GET / HTTP/1.0\r\n\r\n"]):
        driven = drive_connection(respond, received=received)
        driven.end()
        assert driven.client_got == expected
        assert (driven.ended, driven.closed, driven.reset, driven.asked) == (
            True,
            True,
            False,
            False,
        )
        assert driven.errors == 0


def test_a_client_that_never_ends() -> None:
    """It is given a second after the last word."""
    driven = drive_connection(Respond(Respond.Options(text="x")))
    assert not driven.closed
    driven.advance(1.1)
    driven.advance(0)
    assert (driven.closed, driven.reset) == (True, False)


@pytest.mark.parametrize("options", [{}, {"text": "a", "base64": "YQ=="}, {"base64": "!"}])
def test_what_cannot_be_sent(options: dict[str, Any]) -> None:
    """One of both, and base64 is base64."""
    with pytest.raises(ValidationError):
        Respond.Options(**options)


def test_the_longest_answer() -> None:
    """More than 1 MiB is refused: it is kept in memory for every client that reads slowly."""
    with pytest.raises(ValidationError, match="at most 1 MiB"):
        Respond.Options(text="x" * ((1 << 20) + 1))
