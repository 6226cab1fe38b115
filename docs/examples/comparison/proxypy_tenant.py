import re
import urllib.error
import urllib.request

from proxy.http.exception import HttpRequestRejected
from proxy.http.parser import HttpParser
from proxy.http.server import ReverseProxyBasePlugin


class Tenant(ReverseProxyBasePlugin):
    def routes(self):
        return [(r"/.*", [b"http://127.0.0.1:8082"])]

    def before_routing(self, request: HttpParser) -> HttpParser:
        key = request.header(b"x-api-key") if request.has_header(b"x-api-key") else b""
        if not re.fullmatch(rb"[0-9A-Za-z]+", key):
            raise HttpRequestRejected(401, b"Unauthorized", body=b"an API key is needed\n")
        try:  # it blocks the worker: a plugin cannot wait here
            url = "http://127.0.0.1:8081/keys/" + key.decode()
            with urllib.request.urlopen(url, timeout=2.0) as answer:
                tenant = answer.read().strip()
        except urllib.error.HTTPError:
            raise HttpRequestRejected(403, b"Forbidden", body=b"nobody has this key\n") from None
        request.add_header(b"x-tenant", tenant)
        return request
