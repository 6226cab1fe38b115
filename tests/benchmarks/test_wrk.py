"""Reading wrk's output, and the command line that runs it."""

from __future__ import annotations

import pytest

from tests.benchmarks import wrk

OUTPUT = """Running 2s test @ http://127.0.0.1:1/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.82ms    1.00ms   9.00ms   90.00%
  34000 requests in 2.00s, 14.00MB read
Requests/sec:  17000.00
RESULT {"requests": 34000, "seconds": 2.000100, "bytes": 14000000, \
"p50_ms": 1.8200, "p99_ms": 2.7100, "connect": 0, "read": 0, "write": 0, "status": 0, "timeout": 0}
"""


def test_parse_reads_the_script_s_result_line() -> None:
    """wrk's own prose is passed over; the numbers come from the line that our script prints."""
    assert wrk.parse(OUTPUT) == wrk.Result(34000, 2.0001, 1.82, 2.71, {}, 14000000)


def test_parse_names_only_the_failures_that_happened() -> None:
    """A failure of any kind is seen, so that a run of errors cannot pass for a run of requests."""
    result = wrk.parse(
        OUTPUT.replace('"status": 0', '"status": 7').replace('"timeout": 0', '"timeout": 2')
    )
    assert result.failures == {"status": 7, "timeout": 2}


def test_parse_refuses_output_without_a_result() -> None:
    """A script that broke is an error that quotes what wrk said."""
    with pytest.raises(wrk.LoadError, match="unable to connect"):
        wrk.parse("unable to connect to 127.0.0.1:1 Connection refused\n")


def test_command_pins_the_load_and_passes_the_routes_to_the_script() -> None:
    """The load runs on its own cores and on loopback; wrk gets whole seconds, at least one."""
    argv = wrk.command(
        8080, seconds=0.4, connections=32, pinned={2, 0}, arguments=["close", "/a/", "/b/"]
    )
    assert argv[:3] == ["taskset", "-c", "0,2"]
    assert argv[argv.index("--duration") + 1] == "1s"
    assert argv[argv.index("http://127.0.0.1:8080/") :] == [
        "http://127.0.0.1:8080/",
        "--",
        "close",
        "/a/",
        "/b/",
    ]
    assert wrk.SCRIPT.is_file()


def test_bodies_are_asked_for_over_tls() -> None:
    """Another script, with its own arguments, and a URL that makes wrk speak TLS."""
    argv = wrk.command(
        8443, seconds=2, connections=4, pinned={0}, arguments=["down", "100"], script=wrk.BODIES,
        secured=True,
    )  # fmt: skip
    assert argv[-4:] == ["https://127.0.0.1:8443/", "--", "down", "100"]
    assert argv[argv.index("--script") + 1] == str(wrk.BODIES)
    assert wrk.BODIES.is_file()
