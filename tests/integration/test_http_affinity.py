"""Clients that come back to where they were: by cookie, by hash, also when that is gone."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness import HOST, HttpUpstream, Proxy
from tests.integration.wire import Response, ask

CONFIG = """
listeners:
  web:
    listen: '127.0.0.1:$web'
    http:
      routes:
        - { match: { prefix: /sticky }, to: sticky, retry: { backoff: { base: 1ms } } }
        - { match: { prefix: /cookie }, to: cookie }
        - { match: { prefix: /user }, to: cookie, hash_by: [{ header: x-user }, { query: user }] }
        - { to: source }
clusters:
  sticky:
    endpoints: [$endpoints]
    sticky: { cookie: { name: at, ttl: 1h } }
  cookie:
    endpoints: [$endpoints]
    balance: ring_hash
    hash_by: { cookie: session }
  source: { endpoints: [$endpoints], balance: maglev }
"""


@pytest.fixture(scope="module")
def endpoints() -> Iterator[list[HttpUpstream]]:
    """Six endpoints, each of which says its number."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                HttpUpstream(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%d" % number)
            )
            for number in range(6)
        ]


@pytest.fixture(scope="module")
def proxy(endpoints: list[HttpUpstream]) -> Iterator[Proxy]:
    """A proxy that balances over them in three ways."""
    text = CONFIG.replace("$endpoints", ", ".join(f"'{one.address}'" for one in endpoints))
    with Proxy(text) as running:
        yield running


def issued(response: Response) -> str:
    """The cookie that came, as a client sends it back."""
    cookie = response.get("set-cookie")
    assert cookie is not None
    assert "; HttpOnly; SameSite=Lax" in cookie
    return cookie.partition(";")[0]


@pytest.mark.parametrize("path", ["/sticky", "/cookie"])
def test_cookies(proxy: Proxy, path: str) -> None:
    """Many clients are spread; each stays, and is given its cookie once."""
    seen = set()
    for _ in range(12):
        first = ask(proxy, path)
        cookie = issued(first)
        for _ in range(3):
            again = ask(proxy, path, cookie=f"other=1; {cookie}")
            assert again.body == first.body
            assert again.get("set-cookie") is None
        seen.add(first.body)
    assert len(seen) > 2


def test_hashes(proxy: Proxy) -> None:
    """The route's keys in their order, whatever the connection."""
    by_user = {user: ask(proxy, "/user", x_user=user).body for user in map(str, range(20))}
    assert len(set(by_user.values())) > 2
    for user, body in by_user.items():
        assert ask(proxy, f"/user?user={user}").body == body
        assert ask(proxy, "/user?user=x", x_user=user).body == body
        assert ask(proxy, "/user", x_user=user).get("set-cookie") is None


def test_addresses(proxy: Proxy) -> None:
    """One client's address is one endpoint."""
    assert len({ask(proxy).body for _ in range(10)}) == 1


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(proxy: Proxy, tmp_path: Path) -> None:
    """A jar of cookies is all that a client needs."""
    jar = str(tmp_path / "jar")
    url = f"http://{HOST}:{proxy.ports['web']}/sticky"
    bodies = [
        subprocess.run(
            ["curl", "-sS", "--max-time", "20", "-b", jar, "-c", jar, url],
            capture_output=True,
            timeout=30,
            check=True,
        ).stdout
        for _ in range(5)
    ]
    assert len(set(bodies)) == 1


def test_an_endpoint_that_is_gone() -> None:
    """Its client is served by another, whose cookie it gets; and stays there."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                HttpUpstream(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%d" % number)
            )
            for number in range(2)
        ]
        text = CONFIG.replace("$endpoints", ", ".join(f"'{one.address}'" for one in servers))
        proxy = stack.enter_context(Proxy(text))
        first = ask(proxy, "/sticky")
        servers[int(first.body)].close()
        moved = ask(proxy, "/sticky", cookie=issued(first))
        assert (moved.status, moved.body) == (200, b"%d" % (1 - int(first.body)))
        again = ask(proxy, "/sticky", cookie=issued(moved))
        assert again.body == moved.body
        assert again.get("set-cookie") is None
