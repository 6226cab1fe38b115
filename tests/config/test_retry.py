"""Retries, hedging and mirrors."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from meshproxy.config import Backoff, Mirror, Retry
from tests.config.texts import lines_of, messages_of, one_route, with_routes


def test_defaults() -> None:
    """One retry, of what had no effect for certain; seconds and bytes."""
    retry = one_route("- { to: api, retry: {} }").retry
    assert retry is not None
    assert retry == Retry()
    assert retry.on == ["connect-failure", "refused-stream", "reset"]
    assert (retry.attempts, retry.per_try_timeout, retry.max_retry_after) == (1, 0.0, 5.0)
    assert (retry.statuses, retry.headers, retry.non_idempotent) == ([], [], False)
    assert (retry.max_body, retry.response_buffer, retry.buffer_streams) == (65536, 65536, False)
    assert retry.hedge is False
    assert (retry.backoff.base, retry.backoff.max) == (0.025, None)


def test_a_mirror_is_a_cluster_or_a_mapping() -> None:
    """Both forms give the same value."""
    assert one_route("- { to: api, mirror: other }").mirror == Mirror(to="other")
    mirror = one_route("- { to: api, mirror: { to: other } }").mirror
    assert mirror is not None
    assert (mirror.to, mirror.percent, mirror.max_body) == ("other", 100.0, 65536)


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        ("retry: { on: [5xx, gateway-error, retriable-4xx], attempts: 0 }", []),
        ("retry: { on: [500] }", ["connect-failure, refused-stream, reset, 5xx, gateway-error"]),
        (
            "retry: { on: [conect-failure] }",
            ["connect-failure, refused-stream, reset, 5xx, gateway-error"],
        ),
        (
            "retry: { on: reset }",
            ["a list is expected, not the text 'reset'; did you mean '[reset]'?"],
        ),
        ("retry: { on: [] }", ["nothing would be retried; write 'attempts: 0' to have no retries"]),
        ("retry: { on: [], statuses: [503] }", []),
        ("retry: { on: [], headers: [x-retry] }", []),
        ("retry: { attempts: 101 }", ["this must be at most 100, and it is 101"]),
        ("retry: { attempts: -1 }", ["this must be at least 0, and it is -1"]),
        ("retry: { statuses: [429, 500-502] }", []),
        (
            "retry: { statuses: [5xx] }",
            ["a status or a range such as 200-299 is expected, not '5xx'"],
        ),
        ("retry: { headers: ['a b'] }", ["not the name of a header: 'a b'"]),
        ("retry: { per_try_timeout: 1 }", ["a duration needs a unit"]),
        ("retry: { backoff: { base: 0 } }", ["this duration cannot be 0"]),
        ("retry: { backoff: { base: 2s, max: 1s } }", ["this is shorter than 'base' (2s)"]),
        ("retry: { backoff: { max: 10ms } }", ["this is shorter than 'base' (25ms)"]),
        ("retry: { backoff: { max: 25ms } }", []),
        ("retry: { backoff: 1s }", ["a mapping (key: value) is expected, not the text '1s'"]),
        ("retry: { max_retry_after: -1s }", ["a duration cannot be negative: '-1s'"]),
        ("retry: { non_idempotent: 1 }", ["true or false is expected, not the number 1"]),
        ("retry: { max_body: 1MB }", ["a size such as"]),
        ("retry: { response_buffer: -1 }", ["a size cannot be negative"]),
        (
            "retry: { buffer_streams: ~ }",
            ["'buffer_streams' has no value; give it one or remove it"],
        ),
        ("retry: { hedge: true }", ["'hedge' does nothing without 'per_try_timeout' beside it"]),
        (
            "retry: { hedge: true, per_try_timeout: 0 }",
            ["'hedge' does nothing without 'per_try_timeout' beside it"],
        ),
        (
            "retry: { hedge: true, per_try_timeout: 0s }",
            ["'hedge' does nothing without 'per_try_timeout' beside it"],
        ),
        ("retry: { hedge: true, per_try_timeout: 100ms }", []),
        ("retry: { hedge: false }", []),
        (
            "retry: { on: [connect-failure], hedge: true, per_try_timeout: 1s }",
            ["'hedge' does nothing without reset, gateway-error or 5xx in 'on'"],
        ),
        ("retry: { on: [gateway-error], hedge: true, per_try_timeout: 1s }", []),
        (
            "retry: { attempts: 0, hedge: true, per_try_timeout: 1s }",
            ["'hedge' does nothing beside 'attempts: 0'"],
        ),
        ("retry: { num_retries: 2 }", ["unknown key 'num_retries'"]),
        ("mirror: { to: other, percent: 101 }", ["this must be at most 100, and it is 101"]),
        ("mirror: { to: other, percent: .nan }", ["a number that ends is expected, not nan"]),
        ("mirror: { to: other, max_body: x }", ["a size such as"]),
        ("mirror: {}", ["'to' is missing"]),
        ("mirror: { to: { other: 1 } }", ["text is expected, not a mapping"]),
    ],
)
def test_retries(route: str, expected: list[str]) -> None:
    """Every key, its bounds, and what would do nothing."""
    found = messages_of(with_routes(f"- {{ to: api, {route} }}"))
    assert [
        message[: len(start)] for message, start in zip(found, expected, strict=False)
    ] == expected
    assert len(found) == len(expected)


def test_a_listeners_retry_is_judged_too() -> None:
    """It holds for every route that says nothing, and has the same keys."""
    assert messages_of(with_routes("- to: api", "retry: { attempts: 3, statuses: [503] }\n")) == []
    assert messages_of(with_routes("- to: api", "retry: { hedge: true }\n")) == [
        "'hedge' does nothing without 'per_try_timeout' beside it"
    ]


def test_places() -> None:
    """An unknown cluster of a mirror is shown where it is written, in both forms."""
    assert [line.split(": ")[:2] for line in lines_of(with_routes("- { to: api, mirror: x }"))] == [
        ["6:30", "listeners.web.http.routes[0].mirror"]
    ]
    text = with_routes("- { to: api, mirror: { to: x } }")
    assert [line.split(": ")[:2] for line in lines_of(text)] == [
        ["6:36", "listeners.web.http.routes[0].mirror.to"]
    ]


def test_in_python() -> None:
    """Built sections are refused for the same reasons."""
    with pytest.raises(ValidationError, match="does nothing without 'per_try_timeout'"):
        Retry(hedge=True)
    with pytest.raises(ValidationError, match="nothing would be retried"):
        Retry(on=[])
    with pytest.raises(ValidationError, match="shorter than 'base'"):
        Backoff.model_validate({"max": "1ms"})
    assert Retry.model_validate({"hedge": True, "per_try_timeout": "1s"}).per_try_timeout == 1.0
