"""The pipe pool: bounded, and never a byte of one borrower for the next."""

from __future__ import annotations

import fcntl
import os
from typing import Any

import pytest

from meshproxy.net.pipes import Pipe, PipePool


def test_reuse_and_spare() -> None:
    """What is given back is lent again, up to ``spare``; more than that is closed."""
    pool = PipePool(limit=3, spare=1)
    lent = [pipe for pipe in (pool.take(), pool.take()) if pipe is not None]
    assert pool.alive == len(lent) == 2
    for pipe in lent:
        pool.give(pipe)
    assert pool.alive == 1
    assert pool.take() is lent[0]
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(lent[1].source)
    pool.give(lent[0])
    pool.clear()
    assert pool.alive == 0


def test_limit() -> None:
    """At the limit there is none; one discarded makes room for another."""
    pool = PipePool(limit=1)
    pipe = pool.take()
    assert pipe is not None
    assert pool.take() is None
    pool.discard(pipe)
    other = pool.take()
    assert other is not None
    pool.discard(other)


def test_no_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without descriptors gets none, and the count stays right."""

    def refuse(flags: int) -> tuple[int, int]:
        raise OSError(24, "too many")

    monkeypatch.setattr(os, "pipe2", refuse)
    pool = PipePool()
    assert pool.take() is None
    assert pool.alive == 0


def test_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe knows its size; where the kernel refuses a larger one the default serves."""
    large = Pipe(1 << 17)
    assert large.size == 1 << 17
    large.close()
    real: Any = fcntl.fcntl

    def refuse(fd: int, command: int, value: int = 0) -> int:
        if value:
            raise PermissionError(1, "over the soft limit")
        return int(real(fd, command, value))

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    small = Pipe(1 << 20)
    assert small.size == 65536
    small.close()
