"""The shared exceptions: what they carry and how they read."""

from __future__ import annotations

import pytest

from meshproxy.errors import ConfigError, ListenError, MeshproxyError, PluginError, Problem


def test_a_problem_reads_like_a_compilers() -> None:
    """The place comes first, as editors and terminals expect, and the suggestion last."""
    problem = Problem("error", "m.yaml", 3, 5, "listeners.web", "unknown key 'htp'", "http")
    assert str(problem) == "m.yaml:3:5: listeners.web: unknown key 'htp'; did you mean 'http'?"


def test_a_problem_of_the_whole_text_has_no_path() -> None:
    """An empty path leaves no empty part behind."""
    assert str(Problem("error", "m.yaml", 1, 1, "", "the file is empty")) == (
        "m.yaml:1:1: the file is empty"
    )


def test_a_warning_says_so() -> None:
    """A warning can be told from an error in the line itself."""
    problem = Problem("warning", "m.yaml", 9, 3, "clusters.api", "nothing sends to this cluster")
    assert str(problem) == ("m.yaml:9:3: clusters.api: warning: nothing sends to this cluster")


def test_a_problem_is_frozen() -> None:
    """A report cannot change after it was made."""
    problem = Problem("error", "m.yaml", 1, 1, "", "x")
    with pytest.raises(AttributeError):
        problem.line = 2  # type: ignore[misc]


def test_a_config_error_prints_everything() -> None:
    """All problems are in the message, one a line, in order."""
    problems = tuple(Problem("error", "f", n, 1, "", "x") for n in (1, 2))
    error = ConfigError(problems)
    assert error.problems == problems
    assert str(error) == "f:1:1: x\nf:2:1: x"


def test_a_listen_error_names_the_listener() -> None:
    """Who starts a proxy on a busy port sees which listener, where and why."""
    error = ListenError("web", "127.0.0.1:80", "Address already in use")
    assert str(error) == ("listener 'web' cannot listen on 127.0.0.1:80: Address already in use")
    assert (error.listener, error.address, error.reason) == (
        "web",
        "127.0.0.1:80",
        "Address already in use",
    )


def test_everything_is_a_meshproxy_error() -> None:
    """One except clause is enough for all that is raised on purpose."""
    assert {MeshproxyError} == {c.__base__ for c in (ConfigError, ListenError, PluginError)}
