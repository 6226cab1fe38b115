"""From the text of a configuration to frozen values.

Laws:
- A text either becomes a `Loaded` or raises `ConfigError` with everything that is wrong with it,
  each at its line and column; no text makes anything else happen.
- Nothing here opens a socket, starts a timer, or asks a name server; `load_file` reads one file.
- Nothing on the path of a byte reads these values: services compile them once.
"""

from __future__ import annotations

from meshproxy.config.access import AccessLog
from meshproxy.config.action import HeaderEdits, Redirect, Respond, Rewrite
from meshproxy.config.cluster import Cluster, Endpoint, Pool
from meshproxy.config.http import Host, Http, Route
from meshproxy.config.load import Loaded, load, load_file
from meshproxy.config.match import Match, StringMatch
from meshproxy.config.model import Admin, Configuration, Listener, Tcp
from meshproxy.config.schema import schema
from meshproxy.config.values import Address

__all__ = [
    "AccessLog",
    "Address",
    "Admin",
    "Cluster",
    "Configuration",
    "Endpoint",
    "HeaderEdits",
    "Host",
    "Http",
    "Listener",
    "Loaded",
    "Match",
    "Pool",
    "Redirect",
    "Respond",
    "Rewrite",
    "Route",
    "StringMatch",
    "Tcp",
    "load",
    "load_file",
    "schema",
]
