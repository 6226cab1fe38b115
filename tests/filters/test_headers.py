"""The filter headers."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from meshproxy.api import Response, Unfit
from meshproxy.filters.headers import HeaderChanges
from meshproxy.testing import Driven, drive


def made(**options: Any) -> HeaderChanges:
    """The filter with these options, as a configuration would write them."""
    return HeaderChanges(HeaderChanges.Options.model_validate(options))


def sent(driven: Driven) -> dict[bytes, list[bytes]]:
    """The headers that the endpoint got."""
    assert driven.upstream is not None
    headers = driven.upstream.headers
    return {name: headers.get_all(name) for name, _ in headers}


def test_without_options_nothing_changes() -> None:
    """The bare filter lets everything pass."""
    driven = drive(made(), headers={b"x": b"1"})
    assert driven.status == 200
    assert sent(driven)[b"x"] == [b"1"]


def test_every_change_to_a_request() -> None:
    """Each kind of change does what it is called."""
    driven = drive(
        made(
            request={
                "rename": {"x-old": "x-new"},
                "remove": ["x-gone", "x-internal-*"],
                "set": {"x-set": "s", "x-fresh": "f"},
                "set_if_absent": {"x-there": "no", "x-absent": "yes"},
                "append": {"x-list": "c", "x-none": "only"},
                "add": {"x-twice": "2"},
            }
        ),
        headers=[
            (b"x-old", b"o1"),
            (b"x-old", b"o2"),
            (b"x-new", b"n"),
            (b"x-gone", b"1"),
            (b"x-internal-user", b"root"),
            (b"x-internal-", b"x"),
            (b"x-set", b"1"),
            (b"x-set", b"2"),
            (b"x-there", b"t"),
            (b"x-list", b"a"),
            (b"x-list", b"b"),
            (b"x-twice", b"1"),
        ],
    )
    got = {name: values for name, values in sent(driven).items() if not name.startswith(b"x-f")}
    got.pop(b"x-request-id")
    assert got == {
        b"x-new": [b"o1", b"o2"],
        b"x-set": [b"s"],
        b"x-there": [b"t"],
        b"x-absent": [b"yes"],
        b"x-list": [b"a, b, c"],
        b"x-none": [b"only"],
        b"x-twice": [b"1", b"2"],
    }
    assert sent(driven)[b"x-fresh"] == [b"f"]


def test_changes_to_a_response_by_its_status() -> None:
    """Each list of changes is for its statuses; without any, for all."""
    held = made(
        response=[
            {"set": {"x-all": "1"}, "remove": ["x-secret"]},
            {"set": {"x-error": "1"}, "match": {"status": ["5xx", 404, "410-412"]}},
        ]
    )
    for status, marked in ((200, False), (404, True), (411, True), (413, False), (503, True)):
        response = Response(status, b"", {b"x-secret": b"1"})
        driven = drive(held, response=response)
        assert driven.headers.get(b"x-all") == b"1"
        assert b"x-secret" not in driven.headers
        assert (b"x-error" in driven.headers) is marked, status


def test_one_response_section_alone() -> None:
    """A mapping stands for a list of one, and the proxy's own answers are changed too."""
    held = made(response={"add": {"x-a": "%RESPONSE_CODE% %RESPONSE_CODE_DETAILS%"}})
    driven = drive(held, target=b"/404-no-such-route")
    assert driven.headers.get(b"x-a", b"").startswith(b"404 ")  # type: ignore[union-attr]


def test_variables_of_the_request() -> None:
    """Values hold what the request is."""
    driven = drive(
        made(request={"set": {"x-who": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %REQ(:PATH)%"}}),
        target=b"/a?b",
        client=b"192.0.2.9:1",
    )
    assert sent(driven)[b"x-who"] == [b"192.0.2.9 /a?b"]


def test_the_request_id_is_known_to_the_response() -> None:
    """The client can be told the id that the endpoint got."""
    driven = drive(made(response={"set": {"x-id": "%REQUEST_ID%"}}))
    assert driven.headers.get(b"x-id") == sent(driven)[b"x-request-id"][0]


def test_the_start_of_the_request() -> None:
    """Times are those of the calendar."""
    driven = drive(made(response={"set": {"x-at": "%START_TIME(%Y-%m-%d)%"}}))
    assert driven.headers.get(b"x-at") == b"2023-11-14"


def test_a_clients_value_does_not_survive_an_empty_one() -> None:
    """Where there is no certificate, the client cannot name one itself."""
    edits = {
        "set": {"x-cert": "%DOWNSTREAM_PEER_SUBJECT%"},
        "add": {"x-b": "%REQ(none)%"},
        "append": {"x-c": "%REQ(none)%"},
    }
    driven = drive(made(request=edits), headers={b"x-cert": b"CN=root"})
    assert not {b"x-cert", b"x-b", b"x-c"} & set(sent(driven))


def test_a_value_cannot_end_its_header() -> None:
    """What another filter noted cannot begin a header of its own."""
    held = made(request={"set": {"x-user": "%DYNAMIC_METADATA(user)%"}})

    class Note:
        def request(self, exchange: Any) -> None:
            exchange.metadata["user"] = b"jo\r\nx-admin: 1"

    from zope.interface import directlyProvides

    from meshproxy.interfaces import IRequestFilter

    note = Note()
    directlyProvides(note, IRequestFilter)
    got = sent(drive(note, held))
    assert got[b"x-user"] == [b"jo??x-admin: 1"]
    assert b"x-admin" not in got


@pytest.mark.parametrize(
    "options",
    [
        {"request": {"set": {"Content-Length": "1"}}},
        {"request": {"remove": ["transfer-encoding"]}},
        {"request": {"remove": ["conn*"]}},
        {"request": {"remove": ["*"]}},
        {"request": {"remove": ["x-*-y"]}},
        {"request": {"set": {"host": "a"}}},
        {"request": {"rename": {"x": "upgrade"}}},
        {"request": {"rename": {"x": "x-forwarded-proto"}}},
        {"request": {"set": {"X-Request-Id": "a"}}},
        {"request": {"set": {"x-a": "1", "X-A": "2"}}},
        {"request": {"set": {"x-a": "1"}, "remove": ["X-A"]}},
        {"request": {"set": {"x-a": "a\r\nb"}}},
        {"response": {"append": {"set-cookie": "a=b"}}},
        {"response": {"set": {"server": "me"}}},
        {"response": {"set": {"x": "1"}, "match": {"status": ["6xx"]}}},
        {"response": {"set": {"x": "1"}, "match": {"status": ["499-400"]}}},
        {"response": {"set": {"x": "1"}, "match": {"status": []}}},
        {"response": {"match": {"status": [True]}}},
    ],
)
def test_what_cannot_be_changed_is_refused(options: dict[str, Any]) -> None:
    """Framing, what is written later anyway, and contradictions are found at start."""
    with pytest.raises(ValidationError):
        HeaderChanges.Options.model_validate(options)


def test_a_bad_variable_names_its_header() -> None:
    """The message says where the variable is."""
    with pytest.raises(Unfit, match="x-a: there is no variable %NOPE%"):
        made(request={"set": {"x-a": "%NOPE%"}})
