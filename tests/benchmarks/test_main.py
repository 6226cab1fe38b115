"""The command line: what it accepts, and what it does when something is wrong."""

from __future__ import annotations

import json
from signal import SIGTERM, getsignal, signal
from typing import TYPE_CHECKING

import pytest

from tests.benchmarks import __main__ as command
from tests.benchmarks.figures import Column, Report
from tests.benchmarks.process import StartError
from tests.benchmarks.proxies import PEER_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.benchmarks.bench import Settings


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No look at the machine, and the signal's disposition as it was."""
    monkeypatch.setattr(command, "warnings", list)
    before = getsignal(SIGTERM)
    yield
    signal(SIGTERM, before)


def _found(settings: Settings) -> Report:
    samples = {"nginx": [{"cost": 2.0}] * settings.rounds}
    return Report("http", "", "nginx", (Column("cost", "µs"),), samples, {}, {}, {})


def _broken(settings: Settings) -> Report:
    raise StartError("meshproxy ended with status 1 while starting")


def _interrupted(settings: Settings) -> Report:
    raise KeyboardInterrupt


def test_defaults_are_those_of_the_goals() -> None:
    """Six rounds, 32 connections, every peer."""
    options = command.parser().parse_args(["http"])
    assert (options.rounds, options.seconds, options.connections) == (6, 3, 32)
    assert options.idle_connections == 2000
    assert options.peers == PEER_NAMES


def test_peers_are_chosen_by_name() -> None:
    """``haproxy`` is both of its variants; no name is no peer."""
    options = command.parser().parse_args(["http", "--peers", "nginx,haproxy"])
    assert options.peers == ("nginx", "haproxy-acl", "haproxy-map")
    assert command.parser().parse_args(["http", "--peers", ""]).peers == ()


@pytest.mark.parametrize(
    "wrong", [["--peers", "squid"], ["--rounds", "0"], ["--seconds", "x"], ["other"]]
)
def test_wrong_options_are_refused(wrong: list[str]) -> None:
    """Before anything is started."""
    with pytest.raises(SystemExit) as stopped:
        command.parser().parse_args(["http", *wrong])
    assert stopped.value.code == 2


def test_one_word_stands_for_all_of_tls() -> None:
    """``tls`` is every scenario named so, ``all`` is all, and else a name is itself."""
    secured = command.chosen("tls")
    assert "tls-http" in secured
    assert all(name.startswith("tls-") for name in secured)
    assert set(secured) < set(command.chosen("all"))
    assert command.chosen("tls-http") == ["tls-http"]


def test_json_goes_to_its_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table is printed, the JSON written."""
    monkeypatch.setattr(command, "SCENARIOS", {"http": _found})
    file = tmp_path / "figures.json"
    assert command.main(["http", "--rounds", "2", "--json", str(file)]) == 0
    assert "nginx" in capsys.readouterr().out
    (scenario,) = json.loads(file.read_text())["scenarios"]
    assert len(scenario["proxies"]["nginx"]["rounds"]) == 2


def test_json_on_standard_output_is_alone_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table moves to standard error, so that a program can read standard output."""
    monkeypatch.setattr(command, "SCENARIOS", {"http": _found})
    assert command.main(["http", "--json", "-"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["scenarios"][0]["scenario"] == "http"
    assert "nginx" in output.err


def test_a_proxy_that_does_not_start_is_an_error_and_the_rest_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 1 with the reason; the other scenarios still print their tables."""
    monkeypatch.setattr(command, "SCENARIOS", {"tcp": _broken, "http": _found})
    assert command.main(["all"]) == 1
    output = capsys.readouterr()
    assert "tcp: meshproxy ended with status 1" in output.err
    assert "nginx" in output.out


def test_an_interruption_keeps_what_was_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C is status 130 and no traceback; finished scenarios are still in the JSON."""
    monkeypatch.setattr(command, "SCENARIOS", {"http": _found, "tcp": _interrupted})
    assert command.main(["all", "--json", "-"]) == 130
    output = capsys.readouterr()
    assert len(json.loads(output.out)["scenarios"]) == 1
    assert "interrupted" in output.err
