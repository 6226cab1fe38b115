"""The filter ``tap``: what is recorded, what of it, where, and what is not."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from meshproxy.api import Response
from meshproxy.filters.tap import REDACTED, Tap
from meshproxy.interfaces import IRequestBodyFilter, IResponseBodyFilter
from meshproxy.testing import Driven, Kit, recorded


def tap(**options: Any) -> Tap:
    """The filter with these options."""
    return Tap(Tap.Options(**options))


def shown(kit: Kit) -> Any:
    """What the admin shows, as it would be sent."""
    (describe,) = kit.shown.values()
    return json.loads(json.dumps(describe()))


def record(held: Tap | None = None, **keywords: Any) -> dict[str, Any]:
    """The record of one exchange."""
    kit = Kit()
    kit.drive(held or tap(), **keywords)
    (entry,) = shown(kit)["exchanges"]
    return dict(entry)


def test_a_record() -> None:
    """Everything that is known of an exchange, as text."""
    kit = Kit()
    d = kit.drive(
        tap(),
        method=b"POST",
        target=b"/a?b=c",
        headers=[(b"x-one", b"1"), (b"x-one", b"\xfc")],
        body=b"question",
        response=None,
    )
    kit.clock.advance(0.25)
    d.exchange.metadata["user"] = b"ada"
    d.exchange.metadata["score"] = 0.5
    d.answer(201, {b"x-two": b"2"}, b"answer")
    page = shown(kit)
    (entry,) = page["exchanges"]
    assert page["recorded"] == 1
    request, response = entry.pop("request"), entry.pop("response")
    assert [pair for pair in request.pop("headers") if pair[0] == "x-one"] == [
        ["x-one", "1"],
        ["x-one", "ü"],
    ]
    assert ["x-two", "2"] in response.pop("headers")
    assert request == {
        "method": "POST",
        "target": "/a?b=c",
        "authority": "test.example",
        "truncated": True,
        "bytes": 8,
    }
    assert response == {"status": 201, "truncated": True, "bytes": 6}
    assert entry.pop("request_id")
    assert entry == {
        "client": "192.0.2.1:5000",
        "start": "2023-11-14T22:13:20.000+00:00",
        "duration": 0.25,
        "status": 201,
        "flags": "-",
        "details": "via_upstream",
        "listener": "test",
        "route": "test",
        "cluster": "test",
        "upstream": "192.0.2.80:80",
        "scheme": "http",
        "protocol": "HTTP/1.1",
        "attempts": 1,
        "metadata": {"user": "ada", "score": 0.5},
    }
    assert d.counters["recorded"] == 1


def test_what_passes_is_not_changed() -> None:
    """Not a byte, not a length, with bodies and without."""
    for held in (tap(), tap(body=4)):
        d = Kit().drive(
            held, method=b"POST", body=b"question", response=Response(200, b"an answer")
        )
        assert d.upstream is not None
        assert d.upstream.body == b"question"
        assert d.upstream.headers.get(b"content-length") == b"8"
        assert d.body == b"an answer"
        assert d.headers.get(b"content-length") == b"9"


def test_bodies() -> None:
    """Their beginnings, whatever the pieces in which they come, and whether that is all."""
    kit = Kit()
    d = kit.drive(tap(body=10), method=b"POST", body=None, response=None)
    for piece in (b"0123", b"4567", b"89ab", b"cdef"):
        d.send(piece)
    d.end()
    d.answer(200, {}, b"one", end=False)
    d.answer_data(b"two")
    d.answer_end()
    (entry,) = shown(kit)["exchanges"]
    request, response = entry["request"], entry["response"]
    assert base64.b64decode(request["body"]) == b"0123456789"
    assert (request["truncated"], request["bytes"]) == (True, 16)
    assert base64.b64decode(response["body"]) == b"onetwo"
    assert (response["truncated"], response["bytes"]) == (False, 6)
    assert d.upstream is not None
    assert d.upstream.body == b"0123456789abcdef"


def test_a_body_of_just_that_size() -> None:
    """It is whole."""
    entry = record(tap(body=5), response=Response(200, b"12345"))
    assert base64.b64decode(entry["response"]["body"]) == b"12345"
    assert entry["response"]["truncated"] is False
    assert (entry["request"]["body"], entry["request"]["truncated"]) == ("", False)


def test_without_bodies_nobody_looks_at_them() -> None:
    """The chain calls no body method."""
    sides = (IRequestBodyFilter, IResponseBodyFilter)
    assert [side.providedBy(tap()) for side in sides] == [False, False]
    assert [side.providedBy(tap(body=1)) for side in sides] == [True, True]


SECRETS = [
    b"authorization",
    b"proxy-authorization",
    b"cookie",
    b"set-cookie",
    b"x-api-key",
    b"api-key",
    b"x-auth-token",
    b"x-csrf-token",
    b"x-amz-security-token",
    b"x-goog-iap-jwt-assertion",
    b"x-client-secret",
    b"x-session-id",
    b"x-auth",
    b"ocp-apim-subscription-key",
]


@pytest.mark.parametrize("name", SECRETS)
def test_what_looks_like_a_secret(name: bytes, tmp_path: Path) -> None:
    """Its value is nowhere: neither in the admin nor in the file, of requests and responses."""
    kit = Kit(directory=tmp_path)
    held = tap(file="tap.jsonl", body=100)
    response = Response(200, b"x", [(name, b"hunter2")])
    kit.drive(held, headers=[(name, b"hunter2"), (b"x-plain", b"seen")], response=response)
    kit.stop(held)
    text = (tmp_path / "tap.jsonl").read_text()
    for all_of_it in (text, json.dumps(shown(kit))):
        assert "hunter2" not in all_of_it
        assert json.dumps([name.decode(), REDACTED]).replace(" ", "") in all_of_it.replace(" ", "")
        assert "seen" in all_of_it


def test_secrets_that_are_told() -> None:
    """More can be hidden, and what is none can be shown."""
    held = tap(redact=["X-Mine"], reveal=["x-session-id"])
    entry = record(held, headers={b"x-mine": b"1", b"x-session-id": b"2", b"cookie": b"3"})
    assert ["x-mine", REDACTED] in entry["request"]["headers"]
    assert ["x-session-id", "2"] in entry["request"]["headers"]
    assert ["cookie", REDACTED] in entry["request"]["headers"]


@pytest.mark.parametrize(
    ("target", "kept"),
    [
        (b"/a?access_token=s&b=1", "/a?access_token=[redacted]&b=1"),
        (b"/a?b=1&API_KEY=s", "/a?b=1&API_KEY=[redacted]"),
        (b"/a?b=1;password=s", "/a?b=1;password=[redacted]"),
        (b"/a?%74oken=s", "/a?%74oken=[redacted]"),
        (b"/a?mine=s&minestrone=1", "/a?mine=[redacted]&minestrone=1"),
        (b"/a?sig=s", "/a?sig=[redacted]"),
        (b"/a?key=s&keys=1&monkey=2", "/a?key=[redacted]&keys=1&monkey=2"),
        (b"/token=1?b=2", "/token=1?b=2"),
        (b"/a", "/a"),
    ],
)
def test_secrets_of_the_query(target: bytes, kept: str) -> None:
    """Parameters whose names say so, or that are told."""
    assert record(tap(redact_parameters=["Mine"]), target=target)["request"]["target"] == kept


def test_secrets_of_urls_in_headers() -> None:
    """A redirect's target and the page before are URLs too."""
    response = Response(302, b"", {b"location": b"https://a.example/cb#access_token=s&x=1"})
    entry = record(headers={b"referer": b"https://b.example/?code=s"}, response=response)
    assert ["referer", "https://b.example/?code=[redacted]"] in entry["request"]["headers"]
    assert ["location", "https://a.example/cb#access_token=[redacted]&x=1"] in entry["response"][
        "headers"
    ]


def test_which_requests() -> None:
    """Path, method and headers decide; the rest goes by."""
    kit = Kit()
    held = tap(
        match={"paths": [{"prefix": "/api/"}], "methods": ["POST"], "headers": {"x-a": "1"}},
        body=10,
    )
    asks: list[tuple[bytes, bytes, bytes]] = [
        (b"POST", b"/api/1", b"1"),
        (b"GET", b"/api/2", b"1"),
        (b"POST", b"/other", b"1"),
        (b"POST", b"/api/3", b"2"),
        (b"POST", b"/api/4", b"1"),
    ]
    for method, target, header in asks:
        d = kit.drive(held, method=method, target=target, headers={b"x-a": header}, body=b"ab")
        assert d.status == 200
    targets = [entry["request"]["target"] for entry in shown(kit)["exchanges"]]
    assert targets == ["/api/4", "/api/1"]


def outcomes(held: Tap) -> list[str]:
    """Which of these exchanges are recorded."""
    kit = Kit()

    def one(name: str) -> Driven:
        return kit.drive(held, target=b"/" + name.encode(), response=None)

    one("fine").answer(200)
    one("missing").answer(404)
    one("broken").answer(503)
    slow = one("slow")
    kit.clock.advance(2)
    slow.answer(200)
    one("left").disconnect()
    cut = one("cut")
    cut.answer(200, {}, b"part", end=False)
    cut.fail()
    return sorted(entry["request"]["target"][1:] for entry in shown(kit)["exchanges"])


@pytest.mark.parametrize(
    ("only", "found"),
    [
        (None, ["broken", "cut", "fine", "left", "missing", "slow"]),
        ({"errors": True}, ["broken", "cut", "left"]),
        ({"slower_than": "1s"}, ["slow"]),
        ({"statuses": [404]}, ["missing"]),
        ({"statuses": ["5xx", "404"]}, ["broken", "missing"]),
        ({"statuses": ["4xx"], "slower_than": "1s"}, ["missing", "slow"]),
    ],
)
def test_what_became_of_them(only: Any, found: list[str]) -> None:
    """One of what is written is enough; without it, anything."""
    assert outcomes(tap(only=only)) == found


def test_a_share() -> None:
    """The dice decide at the request; what was not chosen is not touched."""
    kit = Kit()
    held = tap(percent=25, body=10)
    draws = iter([0.2, 0.25, 0.9, 0.0])
    held._draw = lambda: next(draws)
    for number in range(4):
        kit.drive(held, method=b"POST", target=b"/%d" % number, body=b"x")
    assert [e["request"]["target"] for e in shown(kit)["exchanges"]] == ["/3", "/0"]


def test_what_is_kept_in_memory() -> None:
    """The last ones, newest first; none with ``keep: 0``, which has no page either."""
    kit = Kit()
    held = tap(keep=2)
    for number in range(5):
        kit.drive(held, target=b"/%d" % number)
    page = shown(kit)
    assert page["recorded"] == 5
    assert [entry["request"]["target"] for entry in page["exchanges"]] == ["/4", "/3"]
    kit = Kit()
    kit.attach(tap(keep=0, file="/dev/null"))
    assert kit.shown == {}


def test_an_answer_of_a_filter() -> None:
    """What this chain answered itself is recorded like what came from an endpoint."""
    kit = Kit()
    d = kit.drive(tap(), target=b"/404-no-such-route")
    assert d.status == 404
    (entry,) = shown(kit)["exchanges"]
    assert entry["response"]["status"] == 404
    assert entry["upstream"] == ""


def test_the_file(tmp_path: Path) -> None:
    """A line each, that the test kit reads back as the same exchange."""
    kit = Kit(directory=tmp_path)
    held = tap(file="tap.jsonl", keep=0, body=100)
    response = Response(201, b"\x00answer\xff", {b"etag": b'"1"', b"content-type": b"a/b"})
    for number in range(3):
        kit.drive(
            held,
            method=b"PUT",
            target=b"/%d?x=y" % number,
            headers={b"x-one": b"\xe9"},
            body=b"\x00question\xff",
            response=response,
        )
    kit.advance(1.1)
    found = list(recorded(tmp_path / "tap.jsonl"))
    assert [held.target for held in found] == [b"/0?x=y", b"/1?x=y", b"/2?x=y"]
    first = found[0]
    assert (first.method, first.authority, first.body, first.client) == (
        b"PUT",
        b"test.example",
        b"\x00question\xff",
        b"192.0.2.1:5000",
    )
    assert (b"x-one", b"\xe9") in first.headers
    assert first.response is not None
    assert (first.response.status, first.response.body) == (201, b"\x00answer\xff")
    assert first.response.headers.get(b"etag") == b'"1"'
    again = Kit().drive(record=first)
    assert (again.status, again.body) == (201, b"\x00answer\xff")
    kit.stop(held)


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    """The proxy does not start with it; later it costs records, counted, and no exchange."""
    kit = Kit(directory=tmp_path / "nowhere")
    with pytest.raises(OSError, match="No such file"):
        kit.attach(tap(file="tap.jsonl"))
    kit = Kit(directory=tmp_path)
    held = tap(file="tap.jsonl")
    kit.attach(held)
    (tmp_path / "tap.jsonl").unlink()
    (tmp_path / "tap.jsonl").mkdir()
    assert kit.drive(held).status == 200
    kit.advance(1.1)
    assert kit.counters["dropped"] == 1
    (line,) = kit.log
    assert "cannot write to" in line


@given(name=st.text("abcdef-", min_size=1, max_size=12))
def test_what_is_remembered_is_bounded(name: str) -> None:
    """Names that clients invent fill nothing."""
    held = tap()
    for number in range(1100):
        held._judge(f"{name}{number}".encode())
    assert len(held._judged) <= 1024


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"keep": 0}, "nothing is kept and no file is written"),
        ({"max_file": 1 << 20}, "does nothing without 'file'"),
        ({"only": {"statuses": ["6xx"]}}, "a status such as 404 or 5xx"),
        ({"only": {"statuses": [99]}}, "a status such as 404 or 5xx"),
        ({"percent": 0.0}, "greater than 0"),
        ({"body": 2 << 20}, "1048576"),
        ({"file": "x", "max_file": 1000}, "65536"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], text: str) -> None:
    """They are refused, and the message says why."""
    with pytest.raises(ValidationError, match=text):
        Tap.Options(**options)


@pytest.mark.parametrize("only", [{}, {"errors": False}, {"slower_than": "0"}])
def test_an_only_that_asks_for_nothing(only: dict[str, Any]) -> None:
    """It would record nothing, which nobody means."""
    with pytest.raises(ValueError, match="asks for nothing"):
        tap(only=only)


def test_more_memory_than_there_is() -> None:
    """So many bodies are not kept."""
    with pytest.raises(ValueError, match="more than the 64 MiB"):
        tap(body=1 << 20, keep=40)
