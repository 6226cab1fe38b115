"""The backend for bodies, spoken to by Python's own HTTP client."""

from __future__ import annotations

import http.client
import ssl
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.benchmarks import identity
from tests.benchmarks.load.body_server import CHUNK, serve
from tests.benchmarks.process import HOST
from tests.benchmarks.tls_server import server_context, serving

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("secured", [False, True])
def test_bodies_go_both_ways_on_one_connection(tmp_path: Path, *, secured: bool) -> None:
    """A download has the length asked for; an upload, with a length or in chunks, is counted."""
    client: ssl.SSLContext | None = None
    server: ssl.SSLContext | None = None
    if secured:
        who = identity.make(tmp_path, "ec")
        server = server_context(who)
        client = ssl.create_default_context(cafile=str(who.authority))
    size = CHUNK + 17
    with serving(partial(serve, context=server)) as port:
        connection = (
            http.client.HTTPSConnection(HOST, port, timeout=10, context=client)
            if client
            else http.client.HTTPConnection(HOST, port, timeout=10)
        )
        with closing(connection):
            connection.request("GET", f"/bodies/{size}")
            assert len(connection.getresponse().read()) == size
            connection.request("PUT", "/bodies/one", b"x" * size)
            assert connection.getresponse().read() == str(size).encode()
            connection.request("PUT", "/one", iter([b"x" * 10, b"y" * CHUNK]), encode_chunked=True)
            assert connection.getresponse().read() == str(CHUNK + 10).encode()
