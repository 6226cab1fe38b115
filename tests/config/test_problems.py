"""What validation finds, in words."""

from __future__ import annotations

import pytest

from tests.config.texts import SMALL, lines_of, messages_of


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("5", 'text is expected, not the number 5; put it in quotes: "5"'),
        ("0x10", 'text is expected, not the number 16; put it in quotes: "0x10"'),
        ("1.0", 'text is expected, not the number 1.0; put it in quotes: "1.0"'),
        ("true", 'text is expected, not true; put it in quotes: "true"'),
        ("[a]", "text is expected, not a list"),
        ("{ a: b }", "text is expected, not a mapping"),
    ],
)
def test_text(written: str, message: str) -> None:
    """What looks like text and is none is to be put in quotes, as it was written."""
    text = SMALL.replace("      routes:", f"      server: {written}\n      routes:")
    assert messages_of(text) == [message]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("five", "a whole number is expected, not the text 'five'"),
        ("'5'", "a whole number is expected; take the quotes off '5'"),
        ("1_000", "a whole number is expected, not the text '1_000'; did you mean '1000'?"),
        ("1.5", "a whole number is expected, not the number 1.5"),
        ("1e3", "a whole number is expected, not the number 1000.0"),
        ("true", "a whole number is expected, not true"),
        (".inf", "a whole number is expected, not the number inf"),
        ("99999999999999999999", "this must be at most 10000, and it is 99999999999999999999"),
    ],
)
def test_whole_numbers(written: str, message: str) -> None:
    """Whatever is no whole number within the bounds is said to be so."""
    text = SMALL.replace("      routes:", f"      max_headers: {written}\n      routes:")
    assert messages_of(text) == [message]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("yes", "true or false is expected, not the text 'yes'; did you mean 'true'?"),
        ("Off", "true or false is expected, not the text 'Off'; did you mean 'false'?"),
        ("'false'", "true or false is expected; take the quotes off 'false'"),
        ("1", "true or false is expected, not the number 1"),
        ("[]", "true or false is expected, not a list"),
    ],
)
def test_truths(written: str, message: str) -> None:
    """The truths of older YAML are translated."""
    text = SMALL.replace("      routes:", f"      forwarded: {written}\n      routes:")
    assert messages_of(text) == [message]


def test_a_message_stays_on_one_line() -> None:
    """However long or odd a value is, the report about it is one short line."""
    value = '"' + "x\\n\\e" * 500 + '"'
    (line,) = lines_of(SMALL.replace("127.0.0.1:8080", value))
    assert line.isprintable()
    assert len(line) < 300


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("half", "a number is expected, not the text 'half'"),
        ("'12.5'", "a number is expected; take the quotes off '12.5'"),
        ("12 %", "a number is expected, not the text '12 %'; did you mean '12'?"),
        ("true", "a number is expected, not true"),
        ("[]", "a number is expected, not a list"),
        (".nan", "a number that ends is expected, not nan"),
        ("-.inf", "a number that ends is expected, not -inf"),
        ("100.5", "this must be at most 100, and it is 100.5"),
        ("-1", "this must be at least 0, and it is -1"),
    ],
)
def test_numbers(written: str, message: str) -> None:
    """A share or factor is a number with an end, whole or not."""
    text = SMALL.replace("api: {", f"api: {{ panic_threshold: {written},")
    assert messages_of(text) == [message]


def test_too_many_and_too_long() -> None:
    """What has a bound says it, and how much there is."""
    text = SMALL.replace("api: {", f"api: {{ subset: {{ v: {'x' * 254} }},")
    assert messages_of(text) == ["at most 253 characters are expected, not 254"]
    text = SMALL.replace("to: api", "{ to: api, hash_by: [source_ip] }").replace(
        "api: {", "api: { balance: maglev,"
    )
    assert messages_of(text) == []
    text = text.replace("[source_ip]", str(["source_ip"] * 9))
    assert messages_of(text) == ["at most 8 entries are expected, not 9"]
