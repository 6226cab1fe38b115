"""The promises between core and codecs are kept by the codecs there are."""

from __future__ import annotations

import inspect

import pytest

from meshproxy.http.h1.client import ClientConnection
from meshproxy.http.h1.server import ServerConnection
from meshproxy.http.stream import Downstream, Upstream


def members(protocol: type) -> set[str]:
    """What a protocol asks for."""
    found = set(protocol.__annotations__)
    return found | {name for name in vars(protocol) if not name.startswith("_")}


@pytest.mark.parametrize(
    ("protocol", "codec"), [(Downstream, ServerConnection), (Upstream, ClientConnection)]
)
def test_codecs_have_what_the_core_calls(protocol: type, codec: type) -> None:
    """Each member is there, and each method takes the same arguments."""
    for name in sorted(members(protocol)):
        theirs = getattr(codec, name)
        ours = getattr(protocol, name, None)
        if inspect.isfunction(ours):
            assert list(inspect.signature(ours).parameters) == list(
                inspect.signature(theirs).parameters
            ), name
