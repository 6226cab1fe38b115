"""Names that certificates are for, and that clients ask for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from meshproxy.config.names import NamePattern, ServerName, covers_name, is_address
from meshproxy.config.unfit import Unfit

SERVER_NAME: TypeAdapter[str] = TypeAdapter(ServerName)
PATTERN: TypeAdapter[str] = TypeAdapter(NamePattern)


def refusal(adapter: TypeAdapter[str], text: str) -> tuple[str, str | None]:
    """What is said of a text that is refused, and what is suggested."""
    with pytest.raises(ValidationError) as caught:
        adapter.validate_python(text)
    (found,) = caught.value.errors()
    error = found["ctx"]["error"]
    assert isinstance(error, Unfit)
    return error.message, error.suggestion


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Site.Example", "site.example"),
        ("site.example.", "site.example"),
        ("localhost", "localhost"),
        ("_srv.a-b.example", "_srv.a-b.example"),
        ("xn--4ca.example", "xn--4ca.example"),
        ("1.2.3.4", "1.2.3.4"),
        ("::0001", "::1"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
    ],
)
def test_server_names(text: str, kept: str) -> None:
    """A DNS name or an address, in its one form."""
    assert SERVER_NAME.validate_python(text) == kept


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("", None),
        (".", None),
        ("a..b", None),
        ("-a.example", None),
        ("a-.example", None),
        ("a b", None),
        ("a" * 64 + ".example", None),
        (".".join(["a" * 60] * 5), None),
        ("1.2.3", None),
        ("1.2.3.400", None),
        ("fe80::1%eth0", None),
        ("*.example", None),
        ("site.example:443", "site.example"),
        ("https://site.example/a", "site.example"),
        ("https://site.example:8443/a", "site.example"),
        ("[::1]", "::1"),
        ("[::1]:443", "::1"),
        ("ä.example", "xn--4ca.example"),
        ("ä" * 80, None),
        (" a.example", "a.example"),
    ],
)
def test_what_is_no_server_name(text: str, suggestion: str | None) -> None:
    """Told, with what was probably meant."""
    message, suggested = refusal(SERVER_NAME, text)
    assert "DNS name or" in message
    assert suggested == suggestion


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("*", "*"),
        ("*.Example.", "*.example"),
        ("*.a.example", "*.a.example"),
        ("A.example", "a.example"),
    ],
)
def test_patterns(text: str, kept: str) -> None:
    """One name, all below one, or all."""
    assert PATTERN.validate_python(text) == kept


@pytest.mark.parametrize(
    ("text", "beginning", "suggestion"),
    [
        ("a*.example", "'*' stands alone or as '*.' at the beginning", None),
        ("*.*.example", "'*' stands alone or as '*.' at the beginning", None),
        ("**", "'*' stands alone or as '*.' at the beginning", None),
        ("*.", "a DNS name such as a.example", None),
        ("", "a DNS name such as a.example", None),
        ("1.2.3.4", "clients never ask for an IP address", None),
        ("[::1]", "clients never ask for an IP address", None),
        ("*.example:443", "a DNS name such as", "*.example"),
        ("1.2.3.4:443", "a DNS name such as", None),
        ("*.ä.example", "a DNS name such as", "*.xn--4ca.example"),
    ],
)
def test_what_is_no_pattern(text: str, beginning: str, suggestion: str | None) -> None:
    """Told, with what was probably meant."""
    message, suggested = refusal(PATTERN, text)
    assert message.startswith(beginning)
    assert suggested == suggestion


@given(st.text(max_size=80))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    """Nothing but a refusal comes of any text; what is kept is kept again, as it is."""
    for adapter in (SERVER_NAME, PATTERN):
        try:
            kept = adapter.validate_python(text)
        except ValidationError:
            continue
        assert adapter.validate_python(kept) == kept
        assert kept.isascii()


def test_addresses() -> None:
    """Numbers, without brackets, ports and zones."""
    assert is_address("1.2.3.4")
    assert is_address("::1")
    assert not any(map(is_address, ("a", "[::1]", "1.2.3.4:5", "fe80::1%a", "")))


@pytest.mark.parametrize(
    ("wide", "narrow", "covered"),
    [
        ("a.b", "a.b", True),
        ("a.b", "*.b", False),
        ("*.b", "a.b", True),
        ("*.b", "a.a.b", True),
        ("*.b", "*.a.b", True),
        ("*.b", "*.b", True),
        ("*.b", "b", False),
        ("*.b", "ab", False),
        ("*.b", "*", False),
        ("*", "*.b", True),
    ],
)
def test_covers(wide: str, narrow: str, covered: bool) -> None:
    """Whether a pattern takes all that another one does."""
    assert covers_name(wide, narrow) is covered
