"""Lines of the access log: what they say, and what nobody can make them say."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from meshproxy.observe.access import SECRET, TEXT, compile_format, operators
from meshproxy.observe.certificate import certificate_texts
from tests.observe.records import START, Record, tcp_record
from tests.tls.authority import Authority

BYTES = st.binary(max_size=60) | st.sampled_from([b"\r\n", b'"', b"\\", b"\\u0000", b"\xff", b""])
RECORDS = st.builds(
    Record,
    method=BYTES,
    path=BYTES,
    authority=BYTES,
    protocol=BYTES,
    details=BYTES,
    client=BYTES,
    upstream=BYTES,
    cluster_name=BYTES,
    route_name=BYTES,
    listener_name=BYTES,
    request_id=BYTES,
    request_headers=st.none() | st.dictionaries(st.sampled_from([b"user-agent", b"x-a"]), BYTES),
    response_headers=st.none() | st.dictionaries(st.just(b"x-b"), BYTES),
    status=st.integers(0, 999),
    bytes_sent=st.integers(0, 1 << 60),
    end=st.floats(START - 10, START + 1e6),
    response_start=st.sampled_from([0.0, START + 1]),
    connected_at=st.sampled_from([0.0, START + 1]),
)
JSON_KEYS = [
    *("time", "listener", "protocol", "status", "flags", "details", "route", "cluster"),
    *("upstream", "attempts", "client", "method", "authority", "path", "bytes_received"),
    *("bytes_sent", "duration_ms", "upstream_connect_ms", "upstream_ms", "request_id"),
    *("user_agent", "forwarded_for"),
]

TLS = SimpleNamespace(
    server_name=b"a.example",
    version=b"TLSv1.3",
    cipher=b"TLS_AES_128_GCM_SHA256",
    alpn=b"http/1.1",
    certificate=None,
)

text_line = compile_format("text")
json_line = compile_format("json")
#: Operators that need an argument.
WITH_NAMES = ("REQ", "RESP", "DYNAMIC_METADATA")
every_operator = compile_format(
    "%REQ(:PATH)%%REQ(X-A?USER-AGENT):9%%RESP(X-B)%%DYNAMIC_METADATA(user)%"
    + "".join(f"%{name}%" for name in operators() if name not in WITH_NAMES)
)


def test_text_is_what_envoy_writes() -> None:
    """The default format, field by field."""
    assert text_line(Record()) == (
        b'[2023-11-14T22:13:20.250Z] "GET /api/users?page=2 HTTP/1.1" 200 - 0 1234 500 250 '
        b'"10.0.0.1" "curl/8" "5b8f3e2a" "api.example.com" "127.0.0.1:9001"\n'
    )


def test_text_of_a_connection() -> None:
    """A TCP record has dashes where HTTP would say something."""
    assert text_line(tcp_record()) == (
        b'[2023-11-14T22:13:20.250Z] "- - TCP" 0 - 0 1234 500 - "-" "-" "-" "-" "127.0.0.1:9001"\n'
    )


def test_text_is_a_format_like_any_other() -> None:
    """The name stands for the exported line, with or without its line feed."""
    for form in (TEXT, TEXT + "\n"):
        assert compile_format(form)(Record()) == text_line(Record())


def test_json_has_the_keys_that_it_promises() -> None:
    """All keys in their order, with texts, numbers, and null for what never happened."""
    entry = json.loads(json_line(Record()))
    assert list(entry) == JSON_KEYS
    assert entry["time"] == "2023-11-14T22:13:20.250Z"
    assert [entry["status"], entry["duration_ms"], entry["upstream_ms"]] == [200, 500.0, 250.0]
    assert [entry["cluster"], entry["user_agent"]] == ["api", "curl/8"]
    connection = json.loads(json_line(tcp_record()))
    assert list(connection) == JSON_KEYS
    assert [connection["upstream_ms"], connection["user_agent"], connection["path"]] == [
        None,
        "",
        "",
    ]


@given(RECORDS)
def test_json_is_always_one_line_of_json(record: Record) -> None:
    """Whatever the bytes: one line, ASCII, the same keys, and the values that were there."""
    line = json_line(record)
    assert line.isascii()
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    entry = json.loads(line)
    assert list(entry) == JSON_KEYS
    assert entry["path"] == record.path.decode("utf-8", "backslashreplace")
    assert entry["route"] == record.route_name.decode("utf-8", "backslashreplace")
    assert entry["duration_ms"] >= 0


@given(RECORDS)
def test_text_has_no_raw_control_characters(record: Record) -> None:
    """One line of printable ASCII, in the default format and with every operator."""
    for form in (text_line, every_operator):
        line = form(record)
        assert line.endswith(b"\n")
        assert all(0x20 <= byte < 0x7F for byte in line[:-1])


@given(RECORDS)
def test_a_value_stays_inside_its_quotes(record: Record) -> None:
    """Quotation marks that are not escaped are those of the format."""
    line = text_line(record).replace(b"\\\\", b"").replace(b'\\"', b"")
    assert line.count(b'"') == TEXT.count('"')


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        ("%START_TIME%", "2023-11-14T22:13:20.250Z"),
        ("%START_TIME(%s.%6f)%", "1700000000.250000"),
        ("%REQ(:METHOD)%", "GET"),
        ("%REQ(:SCHEME)%", "http"),
        ("%REQ(Host)%", "api.example.com"),
        ("%REQ(X-NONE?USER-AGENT)%", "curl/8"),
        ("%REQ(USER-AGENT):4%", "curl"),
        ("%REQ(X-NONE)%", "-"),
        ("%REQ(X-NONE?:PATH):4%", "/api"),
        ("%RESP(CONTENT-TYPE)%", "text/plain"),
        ("%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%", "250"),
        ("%PROTOCOL%", "HTTP/1.1"),
        ("%RESPONSE_CODE%", "200"),
        ("%RESPONSE_CODE_DETAILS%", "via_upstream"),
        ("%RESPONSE_FLAGS%", "-"),
        ("%BYTES_RECEIVED%", "0"),
        ("%BYTES_SENT%", "1234"),
        ("%DURATION%", "500"),
        ("%REQUEST_DURATION%", "125"),
        ("%RESPONSE_DURATION%", "375"),
        ("%RESPONSE_TX_DURATION%", "125"),
        ("%UPSTREAM_CONNECT_TIME%", "62"),
        ("%UPSTREAM_SERVICE_TIME%", "250"),
        ("%UPSTREAM_HOST%", "127.0.0.1:9001"),
        ("%UPSTREAM_CLUSTER%", "api"),
        ("%UPSTREAM_LOCAL_ADDRESS%", "127.0.0.1:3333"),
        ("%DOWNSTREAM_REMOTE_ADDRESS%", "127.0.0.1:45678"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "127.0.0.1"),
        ("%DOWNSTREAM_LOCAL_ADDRESS%", "127.0.0.1:8080"),
        ("%ROUTE_NAME%", "users"),
        ("%LISTENER_NAME%", "web"),
        ("%UPSTREAM_REQUEST_ATTEMPT_COUNT%", "1"),
        ("%DYNAMIC_METADATA(user)%", "alice"),
        ("%DYNAMIC_METADATA(user):3%", "ali"),
        ("%DYNAMIC_METADATA(ns:none)%", "-"),
        ("100%% é\t{literal}", "100% é\t{literal}"),
        ("", ""),
    ],
)
def test_operators(operator: str, expected: str) -> None:
    """What each operator writes, alone and between its neighbours."""
    assert compile_format(operator)(Record()).decode() == expected + "\n"
    assert compile_format(f"a {operator} b")(Record()).decode() == f"a {expected} b\n"


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("%NOPE%", "at 1: %NOPE%: no such operator"),
        ("ab %DURATON%", "at 4: .*did you mean DURATION"),
        ("50%", "at 3: not an operator"),
        ("%req(x)%", "at 1: not an operator"),
        ("%REQ%", "at 1: .*name"),
        ("%REQ()%", "at 1: .*name"),
        ("%REQ(a?b?c)%", "at 1: .*name"),
        ("%REQ(a b)%", "at 1: .*name"),
        ("%REQ(:nope)%", "at 1: .*pseudo header"),
        ("%RESP(:path)%", "at 1: .*pseudo header"),
        ("%DURATION:3%", "at 1: .*length"),
        ("%DURATION(x)%", "at 1: .*no argument"),
        ("%DYNAMIC_METADATA%", "at 1: .*name of a fact"),
        ("%DYNAMIC_METADATA()%", "at 1: .*name of a fact"),
        ("%DYNAMIC_METADATA(*a)%", "at 1: .*name of a fact"),
        ("%DYNAMIC_METADATA(a\nb)%", "(?s)at 1: .*name of a fact"),
        ("%START_TIME(%n)%", "at 1: .*directive"),
        ("%START_TIME(a\nb)%", "(?s)at 1: .*control"),
        ("a\nb", "at 2: control"),
        ("ab%%\x1b", "at 5: control"),
    ],
)
def test_bad_formats_say_where(form: str, message: str) -> None:
    """ValueError names the operator and its position."""
    with pytest.raises(ValueError, match=message):
        compile_format(form)


@given(st.text(max_size=30) | st.text("%()RESPQ:AZ_?19\n ", max_size=30))
def test_any_format_is_compiled_or_refused(form: str) -> None:
    """No text gets into the generated source: it makes lines, or raises ValueError."""
    try:
        function = compile_format(form)
    except ValueError:
        return
    assert function(Record()).endswith(b"\n")


def test_facts_are_escaped_and_may_be_absent() -> None:
    """What a filter noted cannot end a line or a field; a TCP record may have none at all."""
    line = compile_format('"%DYNAMIC_METADATA(user)%"')
    odd: Any = {b"user": b'a"\nb\\'}
    assert line(Record(facts=odd)) == b'"a\\"\\nb\\\\"\n'
    assert line(Record(facts={b"user": b""})) == line(tcp_record()) == b'"-"\n'


@pytest.mark.parametrize("name", sorted(SECRET))
def test_credentials_are_never_written(name: bytes) -> None:
    """A credential's header says only that it was there, as first and as second choice."""
    held: Any = {name: b"secret"}
    record = Record(request_headers=held, response_headers=held)
    text = name.decode()
    for form in (f"%REQ({text})%", f"%RESP({text.upper()})%", f"%REQ(x?{text}):9%"):
        assert compile_format(form)(record) == b"***\n"
        assert compile_format(form)(tcp_record()) == b"-\n"


def test_the_original_path_is_not_the_clients_to_say() -> None:
    """Envoy's header name means the path as received, not what a client sent under that name."""
    record = Record(request_headers={b"x-envoy-original-path": b"/forged"})
    assert compile_format("%REQ(X-ENVOY-ORIGINAL-PATH)%")(record) == b"/api/users?page=2\n"


def test_times_of_a_monotonic_clock() -> None:
    """Dates are the wall's, whatever the zero of the records' clock."""
    clock, wall = Clock(), Clock()
    clock.advance(100)
    wall.advance(START)
    form = compile_format("%START_TIME% %START_TIME(%s)%", clock.seconds, wall.seconds)
    assert form(Record(start=101.5)) == b"2023-11-14T22:13:21.750Z 1700000001\n"


def test_tls() -> None:
    """Facts of the client's TLS, and dashes where there is none."""
    line = compile_format(
        "%REQUESTED_SERVER_NAME% %DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_TLS_CIPHER% "
        "%DOWNSTREAM_TLS_ALPN%"
    )
    assert line(Record(tls=TLS)) == b"a.example TLSv1.3 TLS_AES_128_GCM_SHA256 http/1.1\n"
    assert line(Record()) == b"- - - -\n"
    none = SimpleNamespace(server_name=b"", version=b"TLSv1.2", cipher=b"x", alpn=b"")
    assert line(Record(tls=none)) == b"- TLSv1.2 x -\n"
    assert line(Record(server_name=b"unread.example")) == b"unread.example - - -\n"


def test_tls_that_nobody_asks_for_costs_nothing() -> None:
    """A record is not even asked whether it has any."""

    class Quiet(Record):
        def __getattribute__(self, name: str) -> Any:
            assert name not in ("tls", "server_name")
            return super().__getattribute__(name)

    plain = object.__new__(Quiet)
    plain.__dict__.update(vars(Record()))
    assert text_line(plain) == text_line(Record())
    assert json_line(plain) == json_line(Record())


def test_the_clients_certificate() -> None:
    """What it says, and dashes where there is none."""
    line = compile_format(
        "%DOWNSTREAM_PEER_SUBJECT% %DOWNSTREAM_PEER_ISSUER% %DOWNSTREAM_PEER_URI_SAN% "
        "%DOWNSTREAM_PEER_DNS_SAN% %DOWNSTREAM_PEER_EMAIL_SAN% %DOWNSTREAM_PEER_IP_SAN%"
    )
    held = Authority("An authority").issue(
        *("a.example", "b.example", "192.0.2.1"),
        uris=["spiffe://example/a"],
        emails=["a@example"],
        subject='say "hello"',
    )
    shown = SimpleNamespace(certificate=held.cert)
    assert line(Record(tls=shown)) == (
        b'CN=say \\\\\\"hello\\\\\\" CN=An authority spiffe://example/a a.example,b.example '
        b"a@example 192.0.2.1\n"
    )
    assert line(Record(tls=TLS)) == line(Record()) == b"- - - - - -\n"
    texts = certificate_texts(held.cert)
    exact = compile_format(
        "%DOWNSTREAM_PEER_SERIAL% %DOWNSTREAM_PEER_FINGERPRINT_256% "
        "%DOWNSTREAM_PEER_CERT_V_START% %DOWNSTREAM_PEER_CERT_V_END%"
    )
    wanted = (texts.serial, texts.fingerprint, texts.begins, texts.ends)
    assert exact(Record(tls=shown)) == b" ".join(wanted) + b"\n"


def test_json_of_a_listener_with_tls() -> None:
    """Two keys more, behind the others, empty for who came without."""
    line = compile_format("json", tls=True)
    entry = json.loads(line(Record(tls=TLS)))
    assert list(entry) == [*JSON_KEYS, "tls_version", "server_name"]
    assert (entry["tls_version"], entry["server_name"]) == ("TLSv1.3", "a.example")
    assert json.loads(line(Record()))["tls_version"] == ""
