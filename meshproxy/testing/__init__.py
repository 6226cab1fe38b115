"""
Try a filter without a socket, a clock or a configuration.

>>> from meshproxy.testing import drive
>>> drive(MyFilter(MyFilter.Options(keys=["k"])), headers={b"x-api-key": b"wrong"}).status
401

:func:`drive` is for HTTP, :func:`drive_connection` for TCP; :class:`Kit` for several exchanges with
the same filters; :func:`recorded` reads exchanges that were recorded.
"""

from meshproxy.tcp.kit import DrivenConnection, drive_connection
from meshproxy.testing.ends import Sent
from meshproxy.testing.kit import Driven, Kit, drive
from meshproxy.testing.recording import Recorded, recorded
from meshproxy.testing.service import FakeAnswer, FakeHttp

__all__ = [
    "Driven",
    "DrivenConnection",
    "FakeAnswer",
    "FakeHttp",
    "Kit",
    "Recorded",
    "Sent",
    "drive",
    "drive_connection",
    "recorded",
]
