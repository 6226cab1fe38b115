"""
The filters that meshproxy brings along, as plugins.

The law it keeps: a filter's module is imported when the filter is used, so that one whose
library is missing harms nobody else. A user's own filters live in a ``twisted/plugins/*.py`` of
their own, anywhere on ``sys.path`` or under a directory of ``plugins:``.
"""

from __future__ import annotations

from meshproxy.api import FilterPlugin


def _built_in(name: str, text: str, target: str) -> FilterPlugin:
    return FilterPlugin(name, text, f"meshproxy.filters.{target}")


# HTTP
access = _built_in(
    "access", "Allow or deny by address, header, path, method, certificate.", "access:Access"
)
api_key = _built_in("api_key", "Let in who brings a key.", "api_key:ApiKey")
bandwidth = _built_in("bandwidth", "Limit bytes per second.", "bandwidth:Bandwidth")
basic_auth = _built_in("basic_auth", "Ask for a user and a password.", "basic_auth:BasicAuth")
buffer = _built_in("buffer", "Send a request on when all of it is here.", "buffer:Buffer")
cache = _built_in("cache", "Keep responses and serve them again.", "cache:Cache")
compress = _built_in("compress", "Compress responses.", "compress:Compress")
concurrency = _built_in(
    "concurrency", "Limit requests at a time, with a queue.", "concurrency:Concurrency"
)
cors = _built_in("cors", "Answer and mark cross-origin requests.", "cors:Cors")
csrf = _built_in("csrf", "Refuse requests that another site made.", "csrf:Csrf")
decompress = _built_in(
    "decompress", "Decompress request and response bodies.", "decompress:Decompress"
)
external_auth = _built_in(
    "external_auth", "Ask an HTTP service whether a request may pass.", "external_auth:ExternalAuth"
)
fault = _built_in("fault", "Delay, abort or slow down, on purpose.", "fault:Fault")
headers = _built_in("headers", "Set, add and remove headers.", "headers:HeaderChanges")
health = _built_in("health", "Answer health checks here.", "health:Health")
ip_tags = _built_in("ip_tags", "Name clients by their address.", "ip_tags:IpTags")
jwt = _built_in("jwt", "Let in who brings a valid JSON Web Token.", "jwt:Jwt")
quota = _built_in("quota", "A user's allowance per day or month, kept on disk.", "quota:Quota")
rate_limit = _built_in("rate_limit", "Limit requests per time and client.", "rate_limit:RateLimit")
redirect_https = _built_in(
    "redirect_https", "Send plain HTTP to https.", "redirect_https:RedirectHttps"
)
tap = _built_in("tap", "Record exchanges.", "tap:Tap")

# TCP (those that judge a connection alone serve as listener filters too)
tcp_access = _built_in("access", "Allow or deny connections by address.", "tcp_access:Access")
tcp_bandwidth = _built_in("bandwidth", "Limit bytes per second.", "tcp_bandwidth:Bandwidth")
connection_limit = _built_in(
    "connection_limit", "Limit connections at a time.", "connection_limit:ConnectionLimit"
)
connection_rate = _built_in(
    "connection_rate", "Limit new connections per time.", "connection_rate:ConnectionRate"
)
echo = _built_in("echo", "Send back what comes.", "echo:Echo")
tcp_fault = _built_in("fault", "Delay, refuse, reset or slow down, on purpose.", "tcp_fault:Fault")
respond = _built_in("respond", "Send a fixed text, and close.", "respond:Respond")
tcp_tap = _built_in("tap", "Record connections.", "tcp_tap:Tap")
