"""From the text of a configuration to frozen values.

Laws:
- A text either becomes a `Loaded` or raises `ConfigError` with everything that is wrong with it,
  each at its line and column; no text makes anything else happen.
- Nothing here opens a socket, starts a timer, or asks a name server; `load_file` reads one file.
  Only a configuration that names filters has modules of plugins imported.
- Nothing on the path of a byte reads these values: services compile them once.
"""

from __future__ import annotations

from meshproxy.config.access import AccessLog
from meshproxy.config.action import HeaderEdits, Redirect, Respond, Rewrite
from meshproxy.config.balance import HashBy, HashCookie, SlowStart, Sticky, Subsets
from meshproxy.config.breaker import CircuitBreaker, FailurePercentage, SuccessRate
from meshproxy.config.cluster import Cluster, Endpoint, EndpointCheck
from meshproxy.config.discovery import Discovery, Dns
from meshproxy.config.files import folder, relative
from meshproxy.config.filters import FilterItem
from meshproxy.config.health import DnsCheck, HealthCheck, HttpCheck, TcpCheck
from meshproxy.config.http import Host, Http, Route
from meshproxy.config.limits import (
    Adaptive,
    EndpointLimits,
    Limits,
    Pool,
    PriorityLimits,
    Rate,
    RetryBudget,
)
from meshproxy.config.load import Loaded, load, load_file, search_plugins
from meshproxy.config.match import Match, RequestTls, StringMatch
from meshproxy.config.model import Admin, Configuration, Listener, Tcp
from meshproxy.config.overload import Overload
from meshproxy.config.retry import Backoff, Mirror, Retry
from meshproxy.config.schema import schema
from meshproxy.config.timeouts import Timeouts
from meshproxy.config.tls import (
    Certificate,
    ClientCertificateHeader,
    ClusterTls,
    ListenerTls,
    PassThrough,
    TcpRoute,
    Tickets,
    TlsMatch,
)
from meshproxy.config.values import Address

__all__ = [
    "AccessLog",
    "Adaptive",
    "Address",
    "Admin",
    "Backoff",
    "Certificate",
    "CircuitBreaker",
    "ClientCertificateHeader",
    "Cluster",
    "ClusterTls",
    "Configuration",
    "Discovery",
    "Dns",
    "DnsCheck",
    "Endpoint",
    "EndpointCheck",
    "EndpointLimits",
    "FailurePercentage",
    "FilterItem",
    "HashBy",
    "HashCookie",
    "HeaderEdits",
    "HealthCheck",
    "Host",
    "Http",
    "HttpCheck",
    "Limits",
    "Listener",
    "ListenerTls",
    "Loaded",
    "Match",
    "Mirror",
    "Overload",
    "PassThrough",
    "Pool",
    "PriorityLimits",
    "Rate",
    "Redirect",
    "RequestTls",
    "Respond",
    "Retry",
    "RetryBudget",
    "Rewrite",
    "Route",
    "SlowStart",
    "Sticky",
    "StringMatch",
    "Subsets",
    "SuccessRate",
    "Tcp",
    "TcpCheck",
    "TcpRoute",
    "Tickets",
    "Timeouts",
    "TlsMatch",
    "folder",
    "load",
    "load_file",
    "relative",
    "schema",
    "search_plugins",
]
