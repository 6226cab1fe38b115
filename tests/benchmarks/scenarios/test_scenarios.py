"""The scenarios: their own small logic, and one short run of each with nginx alone."""

from __future__ import annotations

import pytest

from tests.benchmarks import wrk
from tests.benchmarks.bench import Settings
from tests.benchmarks.plan import MAX_CONNECTIONS, TcpPlan
from tests.benchmarks.proxies.nginx import Nginx
from tests.benchmarks.scenarios import SCENARIOS
from tests.benchmarks.scenarios.idle import allowed, complete

# What differs from another scenario by an argument alone.
LIKE_ANOTHER = ("tls-handshakes-rsa", "tls-upstream-bulk")


def test_complete_waits_for_the_whole_body() -> None:
    """A response is whole when its head has ended and as many bytes followed as it said."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    assert not complete(b"")
    assert not complete(head[:-1])
    assert not complete(head + b"1234")
    assert complete(head + b"12345")


def test_complete_refuses_a_response_without_a_length() -> None:
    """Waiting for such a one would wait for ever."""
    with pytest.raises(wrk.LoadError, match="without a length"):
        complete(b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n")


def test_idle_connections_stay_under_the_proxies_own_limit() -> None:
    """The proxies are told to take so many connections and no more."""
    assert allowed(10) == 10
    assert allowed(10**9) < MAX_CONNECTIONS


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in LIKE_ANOTHER])
def test_a_short_run_with_nginx_gives_figures(name: str) -> None:
    """Backend, proxy, load and report work together; every figure of the table is there."""
    if reason := wrk.missing() or Nginx().missing(TcpPlan(0)):
        pytest.skip(reason)
    settings = Settings(
        rounds=1, seconds=1, connections=4, idle_connections=50, peers=("nginx",), meshproxy=False
    )
    report = SCENARIOS[name](settings)
    assert report.reference == "nginx"
    assert set(report.samples) == {"nginx"}
    (sample,) = report.samples["nginx"]
    assert {column.key for column in report.columns} <= set(sample)
    assert report.versions["nginx"]
