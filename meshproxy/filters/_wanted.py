"""
What a header, a path or a fact must be: the options of filters that judge requests by them.

The law it keeps: text alone means the whole value, everything is compiled once, and a field that
comes several times hides nothing: whoever asks says whether one value is enough or all must do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from meshproxy.api import Headers, StringMatch, Unfit, string_test

__all__ = ["HeaderTest", "header_test", "no_host", "text_of"]


HeaderTest = Callable[[Headers], bool]


def header_test(name: str, wanted: StringMatch, *, every: bool) -> HeaderTest:
    """
    A test of the header ``name``. Of several fields one must match, with ``every`` all of them;
    where there is none, the test is given None.
    """
    key = name.lower().encode()
    test = string_test(wanted)
    judge = all if every else any

    def matches(headers: Headers) -> bool:
        values = headers.get_all(key)
        if len(values) < 2:
            return test(values[0] if values else None)
        return judge(map(test, values))

    return matches


def no_host(given: Mapping[str, Any], instead: str) -> Iterator[Unfit]:
    """Yield a fault for ``headers.host``, which is not among the others; ``instead`` is a key."""
    headers = given.get("headers")
    for name in headers if isinstance(headers, Mapping) else ():
        if isinstance(name, str) and name.lower() == "host":
            yield Unfit(f"the host is judged by {instead}", at=("headers", name))


def text_of(value: Any) -> bytes | None:
    """A fact of ``exchange.metadata`` as bytes; None stays None."""
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, bool):
        return b"true" if value else b"false"
    return str(value).encode()
