"""Header values with variables."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace as Some
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.api import Headers, Unfit, certificate_texts
from meshproxy.filters._variables import compile_value
from tests.tls.authority import Authority


def same() -> Callable[[float], float]:
    """A clock whose times are seconds since 1970."""
    return lambda moment: moment


def exchange(**given: Any) -> Any:
    """An exchange that has what variables may ask for."""
    request = Some(
        method=b"GET",
        target=b"/a?b=c",
        path=b"/a",
        authority=b"a.example:8080",
        headers=Headers.of([(b"user-agent", b"curl"), (b"x", b"1")]),
    )
    facts: dict[str, Any] = {
        "request": request,
        "response": Some(headers=Headers.of([(b"etag", b'"1"')])),
        "client": b"[2001:db8::1]:5000",
        "client_ip": b"2001:db8::1",
        "local": b"192.0.2.2:80",
        "scheme": b"http",
        "protocol": b"HTTP/1.1",
        "listener_name": b"web",
        "route_name": b"main",
        "cluster_name": b"api",
        "upstream": b"192.0.2.80:80",
        "request_id": b"id",
        "status": 200,
        "flags": b"-",
        "details": b"via_upstream",
        "attempts": 2,
        "bytes_received": 7,
        "start": 86400.25,
        "tls": None,
        "metadata": {"user": "jo", "n": 3},
    }
    return Some(**{**facts, **given})


def value(text: str, late: bool = True, **given: Any) -> bytes:
    """What ``text`` comes to."""
    compiled = compile_value(text, same, late=late)
    return compiled if isinstance(compiled, bytes) else compiled(exchange(**given))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", b"plain"),
        ("", b""),
        ("100%%", b"100%"),
        ("%DOWNSTREAM_REMOTE_ADDRESS%", b"[2001:db8::1]:5000"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", b"2001:db8::1"),
        ("%DOWNSTREAM_REMOTE_PORT%", b"5000"),
        ("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%", b"192.0.2.2"),
        ("%DOWNSTREAM_LOCAL_PORT%", b"80"),
        ("%PROTOCOL% %LISTENER_NAME%/%ROUTE_NAME%", b"HTTP/1.1 web/main"),
        ("%REQ(:METHOD)% %REQ(:SCHEME)%://%REQ(:AUTHORITY)%%REQ(:PATH)%",
         b"GET http://a.example:8080/a?b=c"),
        ("%PATH(NQ)%|%PATH(WQ)%", b"/a|/a?b=c"),
        ("%REQ(Host)%", b"a.example:8080"),
        ("%REQ(User-Agent)%", b"curl"),
        ("%REQ(none?x)%", b"1"),
        ("%REQ(none)%", b""),
        ("%REQ(user-agent):2%", b"cu"),
        ("%RESP(etag)%", b'"1"'),
        ("%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%", b"200 - via_upstream"),
        ("%UPSTREAM_CLUSTER% %UPSTREAM_HOST%", b"api 192.0.2.80:80"),
        ("%UPSTREAM_REQUEST_ATTEMPT_COUNT% %BYTES_RECEIVED%", b"2 7"),
        ("%REQUEST_ID% %STREAM_ID%", b"id id"),
        ("%DYNAMIC_METADATA(user)%%DYNAMIC_METADATA(n)%%DYNAMIC_METADATA(no)%", b"jo3"),
        ("%START_TIME%", b"1970-01-02T00:00:00.250Z"),
        ("%START_TIME(%s)%", b"86400"),
        ("%START_TIME(%Y/%m/%d)%", b"1970/01/02"),
        ("[%DOWNSTREAM_TLS_VERSION%%REQUESTED_SERVER_NAME%%DOWNSTREAM_PEER_SUBJECT%]", b"[]"),
    ],
)  # fmt: skip
def test_what_variables_stand_for(text: str, expected: bytes) -> None:
    """Each has the value of its name; what is missing is empty."""
    assert value(text) == expected


def test_tls_facts() -> None:
    """With TLS, the facts about it are there."""
    tls = Some(server_name=b"a.example", version=b"TLSv1.3", cipher=b"C", certificate=None)
    text = "%REQUESTED_SERVER_NAME% %DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_TLS_CIPHER%"
    assert value(text, tls=tls) == b"a.example TLSv1.3 C"


def test_the_clients_certificate() -> None:
    """What it says, and nothing where there is none."""
    held = Authority("ca").issue(
        *("a.example", "b.example", "192.0.2.1"),
        uris=["spiffe://mesh/a"],
        emails=["a@example"],
        subject="jo",
    )
    tls = Some(server_name=b"", version=b"", cipher=b"", alpn=b"h", certificate=held.cert)
    text = "%DOWNSTREAM_PEER_SUBJECT%|%DOWNSTREAM_PEER_ISSUER%|%DOWNSTREAM_PEER_URI_SAN%|"
    text += "%DOWNSTREAM_PEER_DNS_SAN%|%DOWNSTREAM_PEER_EMAIL_SAN%|%DOWNSTREAM_PEER_IP_SAN%"
    assert value(text, tls=tls) == (
        b"CN=jo|CN=ca|spiffe://mesh/a|a.example,b.example|a@example|192.0.2.1"
    )
    assert value(text, tls=None) == b"|||||"
    texts = certificate_texts(held.cert)
    exact = (
        ("FINGERPRINT_256", texts.fingerprint),
        ("SERIAL", texts.serial),
        ("CERT_V_START", texts.begins),
        ("CERT_V_END", texts.ends),
    )
    for name, expected in exact:
        assert value(f"%DOWNSTREAM_PEER_{name}%", tls=tls) == expected != b""
    assert value("%DOWNSTREAM_TLS_ALPN%", tls=tls) == b"h"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("50%", "no variable"),
        ("%nonsense%", "no variable"),
        ("%NONSENSE%", "there is no variable"),
        ("%PROTOCOL(x)%", "nothing in parentheses"),
        ("%REQ%", "header's name"),
        ("%REQ(a b)%", "header's name"),
        ("%REQ(a?b?c)%", "header's name"),
        ("%REQ(:nope)%", "only :authority"),
        ("%RESP(:path)%", "only :authority"),
        ("%DYNAMIC_METADATA%", "name of a fact"),
        ("%PATH(ORIG)%", "PATH"),
    ],
)
def test_what_is_unknown_is_refused(text: str, message: str) -> None:
    """A text that would come out wrong is not accepted."""
    with pytest.raises(Unfit, match=message):
        compile_value(text, same, late=True)


def test_a_slip_is_set_right() -> None:
    """The variable that was probably meant is suggested."""
    with pytest.raises(Unfit) as caught:
        compile_value("%ROUTE_NAMES%", same, late=True)
    assert caught.value.suggestion == "%ROUTE_NAME%"


@pytest.mark.parametrize(
    "text", ["%RESP(etag)%", "%RESPONSE_CODE%", "%UPSTREAM_HOST%", "%REQUEST_ID%"]
)
def test_what_is_not_known_yet_is_refused(text: str) -> None:
    """A request cannot hold what only the response brings."""
    with pytest.raises(Unfit, match="not known yet"):
        compile_value(text, same, late=False)


@given(st.binary(max_size=40), st.booleans())
def test_nothing_ends_a_header(data: bytes, beside: bool) -> None:
    """Whatever a peer or another filter says, no control character comes out."""
    text = "a%DYNAMIC_METADATA(user)%" if beside else "%DYNAMIC_METADATA(user)%"
    made = value(text, metadata={"user": data})
    assert len(made) == len(data) + beside
    Headers.of([(b"x", made)])
