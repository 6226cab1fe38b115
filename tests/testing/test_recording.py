"""Recorded exchanges, and playing them."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from meshproxy.testing import Recorded, drive, recorded
from tests.http.filters import Made


def test_what_the_tap_filter_writes_can_be_played(tmp_path: Path) -> None:
    """Request, client and response come from the file."""
    entry = {
        "request": {
            "method": "POST",
            "target": "/a?b",
            "authority": "a.example",
            "headers": [["x-a", "1"], ["content-length", "4"]],
            "body": base64.b64encode(b"body").decode(),
        },
        "response": {"status": 201, "headers": [["etag", "1"]], "body": None},
        "client": "192.0.2.9:1234",
    }
    file = tmp_path / "tap.jsonl"
    file.write_text(json.dumps(entry) + "\n\n" + json.dumps({**entry, "response": None}) + "\n")
    first, second = recorded(file)
    assert second.response is None
    driven = drive(Made(), record=first)
    assert (driven.status, driven.headers.get(b"etag")) == (201, b"1")
    sent = driven.upstream
    assert (sent.method, sent.target, sent.authority) == (b"POST", b"/a?b", b"a.example")
    assert (sent.body, sent.headers.get(b"content-length")) == (b"body", b"4")
    assert driven.exchange.client_ip == b"192.0.2.9"


def test_what_a_browser_recorded_can_be_played(tmp_path: Path) -> None:
    """A HAR file, with its decoded bodies."""
    har = {
        "log": {
            "entries": [
                {
                    "request": {
                        "method": "GET",
                        "url": "https://b.example/x?y#z",
                        "headers": [{"name": ":authority", "value": "b.example"},
                                    {"name": "Accept", "value": "*/*"}],
                    },
                    "response": {
                        "status": 200,
                        "headers": [{"name": "content-encoding", "value": "br"}],
                        "content": {"text": "aGk=", "encoding": "base64"},
                    },
                }
            ]
        }
    }  # fmt: skip
    file = tmp_path / "browser.har"
    file.write_text(json.dumps(har))
    (record,) = recorded(file)
    driven = drive(Made(), record=record)
    assert (driven.body, driven.headers.get(b"content-encoding")) == (b"hi", None)
    assert (driven.upstream.target, driven.upstream.authority) == (b"/x?y", b"b.example")
    assert record.headers == ((b"accept", b"*/*"),)


@pytest.mark.parametrize("text", ['{"a": 1}\n', "[1]\n", "no json\n"])
def test_a_file_of_something_else(tmp_path: Path, text: str) -> None:
    """It is refused, with its name where there is one to tell."""
    file = tmp_path / "other"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"\w"):
        list(recorded(file))


def test_a_record_has_defaults() -> None:
    """One can be made by hand."""
    assert drive(Made(), record=Recorded(target=b"/r")).upstream.target == b"/r"
