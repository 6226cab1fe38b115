"""
The ``meshproxy`` command of ``twistd``.

The law it keeps: nothing but a few strings is imported here, since every run of ``twistd``,
whatever its command, imports every dropin. ``meshproxy.tap`` is imported when the command is used.
"""

from __future__ import annotations

from twisted.application.service import ServiceMaker

meshproxy = ServiceMaker("meshproxy", "meshproxy.tap", "A proxy for HTTP and TCP.", "meshproxy")
