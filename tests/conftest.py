"""Fixtures that every room of the tests may use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.harness import Proxy


@pytest.fixture
def start() -> Iterator[Callable[..., Proxy]]:
    """Start proxies (the arguments are :class:`Proxy`'s); they end with the test."""
    with ExitStack() as stack:

        def start(*arguments: Any, **settings: Any) -> Proxy:
            return stack.enter_context(Proxy(*arguments, **settings))

        yield start


@pytest.fixture(params=[None, "epoll", "asyncio"], ids=["mesh", "epoll", "asyncio"])
def reactor_name(request: pytest.FixtureRequest) -> str | None:
    """The reactors that integration tests run on, as ``--reactor``; None is meshproxy's own."""
    name: str | None = request.param
    return name


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """
    Short names for long values: such as are made when tests are collected (compressed, signed,
    hashed) differ from process to process, and a parallel run needs the same tests in each.
    """
    return argname if isinstance(val, bytes | str) and len(val) > 40 else None
