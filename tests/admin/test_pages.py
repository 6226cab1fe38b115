"""What the admin answers, over real sockets."""

from __future__ import annotations

import json
import re
from typing import Any

import treq
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet import defer, endpoints, reactor
from twisted.trial.unittest import TestCase
from twisted.web.http_headers import Headers

from meshproxy.admin.site import make_site
from meshproxy.admin.table import certificates_text, clusters_text
from meshproxy.observe.prometheus import STEP
from tests.admin.fakes import State

PAGES = {
    "/": "GET",
    "/ready": "GET",
    "/live": "GET",
    "/metrics": "GET",
    "/stats": "GET",
    "/clusters": "GET",
    "/listeners": "GET",
    "/certs": "GET",
    "/filters": "GET",
    "/config": "GET",
    "/version": "GET",
    "/logs/reopen": "POST",
}


class PagesTests(TestCase):
    """Each page, and what is refused."""

    async def serve(self) -> None:
        """Listen on a free loopback port."""
        self.state = State()
        site = make_site(self.state)
        listening: Any = endpoints
        port = await listening.serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(site)
        self.addCleanup(port.stopListening)
        self.base = f"http://127.0.0.1:{port.getHost().port}"

    def setUp(self) -> Any:
        """Every test has its own server."""
        return defer.ensureDeferred(self.serve())

    async def ask(
        self, path: str, method: str = "GET", **headers: str
    ) -> tuple[int, dict[str, str], str]:
        """Status, headers and body of one request; an underscore in a name is a hyphen."""
        response = await treq.request(
            method,
            self.base + path,
            headers=Headers({name.replace("_", "-"): [value] for name, value in headers.items()}),
            persistent=False,
        )
        fields = {
            name.decode().lower(): values[0].decode()
            for name, values in response.headers.getAllRawHeaders()
        }
        return response.code, fields, (await treq.content(response)).decode()

    async def json(self, path: str, **headers: str) -> Any:
        """The JSON that a page answers."""
        status, fields, body = await self.ask(path, **headers)
        assert (status, fields["content-type"]) == (200, "application/json")
        return json.loads(body)

    async def test_probes(self) -> None:
        """/ready and /live are 200 or 503 as the proxy says."""
        for path in ("/ready", "/live"):
            status, _, body = await self.ask(path)
            assert (status, body) == (200, "LIVE\n")
        self.state.is_ready = self.state.is_live = False
        assert (await self.ask("/ready"))[::2] == (503, "NOT READY\n")
        assert (await self.ask("/live"))[::2] == (503, "NOT LIVE\n")

    async def test_what_filters_show(self) -> None:
        """A filter's own page is what it shows; one that fails is a 500 and shows nothing else."""
        assert await self.json("/filters") == {"filters": self.state.filters()}
        assert await self.json("/filters/web/quota") == {"used": 3}
        for path in (
            "/filters/web/none",
            "/filters/web",
            "/filters/",
            "/filters/a/b/c",
            "/filtersx",
        ):
            assert (await self.ask(path))[0] == 404, path
        for path, error in (("/filters/web/broken", KeyError), ("/filters/web/odd", TypeError)):
            status, _, body = await self.ask(path)
            assert (status, body) == (500, "the filter failed to show itself; the log says how\n")
            assert len(self.flushLoggedErrors(error)) == 1
        assert (await self.ask("/filters/web/quota", "POST"))[0] == 405

    async def test_json_pages(self) -> None:
        """What programs read is JSON."""
        assert await self.json("/listeners") == {"listeners": self.state.listeners()}
        assert await self.json("/clusters") == {"clusters": self.state.clusters()}
        assert await self.json("/config") == self.state.configuration()
        version = await self.json("/version")
        assert version["version"] == "1.2.3"
        assert version["started"] == "2023-11-14T22:13:20Z"
        assert version["uptime_seconds"] > 0

    async def test_clusters_to_read(self) -> None:
        """/clusters is a table for whoever asks for text before JSON; the query wins."""
        for path, headers in (
            ("/clusters?format=text", {}),
            ("/clusters?format=text", {"accept": "application/json"}),
            ("/clusters", {"accept": "text/plain, application/json;q=0.5"}),
        ):
            status, fields, body = await self.ask(path, **headers)
            assert (status, fields["content-type"]) == (200, "text/plain; charset=utf-8")
            assert body == clusters_text(self.state.clusters())
        for path, accept in (
            ("/clusters?format=json", "text/plain"),
            ("/clusters", "application/json, text/plain"),
            ("/clusters", "*/*"),
            ("/clusters", "image/png"),
        ):
            assert "clusters" in await self.json(path, accept=accept)

    async def test_certificates(self) -> None:
        """/certs is JSON, and a table for whoever asks for text."""
        assert await self.json("/certs") == {"certificates": self.state.certificates()}
        status, fields, body = await self.ask("/certs?format=text")
        assert (status, fields["content-type"]) == (200, "text/plain; charset=utf-8")
        assert body == certificates_text(self.state.certificates())

    async def test_metrics(self) -> None:
        """/metrics is the exposition, in as many steps as it takes; OpenMetrics on demand."""
        registry = self.state.registry
        for number in range(3 * STEP):
            registry.values[registry.counter("a_total", "A", {"x": str(number)})] += number
        status, fields, body = await self.ask("/metrics")
        assert status == 200
        assert fields["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        samples = {
            sample.labels["x"]: sample.value
            for family in text_string_to_metric_families(body)
            if family.name == "a"
            for sample in family.samples
        }
        assert samples == {str(number): number for number in range(3 * STEP)}
        _, fields, body = await self.ask("/metrics", accept="application/openmetrics-text")
        assert fields["content-type"].startswith("application/openmetrics-text")
        assert body.endswith("# EOF\n")

    async def test_metrics_that_cannot_be_read(self) -> None:
        """A sample that raises is a 500 and a logged traceback, not half an answer."""

        def broken() -> float:
            raise ZeroDivisionError

        self.state.registry.sample("a", "A", {}, broken)
        assert (await self.ask("/metrics"))[0] == 500
        logged = self.flushLoggedErrors(ZeroDivisionError)
        assert len(logged) == 1

    async def test_stats(self) -> None:
        """/stats is text, filtered on demand, JSON when asked for by query or Accept."""
        registry = self.state.registry
        registry.values[registry.gauge("a", "A", {"x": "1"})] += 7
        registry.gauge("b", "B", {})
        assert (await self.ask("/stats"))[2] == 'a{x="1"}: 7\nb: 0\n'
        assert (await self.ask("/stats?filter=%5Eb"))[2] == "b: 0\n"
        expected = {"stats": [{"name": "a", "kind": "gauge", "labels": {"x": "1"}, "value": 7}]}
        assert await self.json("/stats?filter=x&format=json") == expected
        assert await self.json("/stats?filter=x", accept="application/json") == expected
        for bad in ("(", "(a%2b)%2b", "x" * 300, "%ff"):
            status, _, body = await self.ask(f"/stats?filter={bad}")
            assert status == 400
            assert body.startswith("filter: ")

    async def test_index(self) -> None:
        """/ links every page for a person, and lists them for a program."""
        status, fields, body = await self.ask("/", accept="text/html,application/xml;q=0.9")
        assert (status, fields["content-type"]) == (200, "text/html; charset=utf-8")
        linked = re.findall(r'(?:href|method="post" action)="([^"]+)"', body)
        assert linked == list(PAGES)
        index = await self.json("/", accept="application/json")
        assert {page["path"]: page["method"] for page in index["pages"]} == PAGES

    async def test_methods(self) -> None:
        """HEAD works wherever GET does; any other method is 405 and says what is allowed."""
        for path, method in PAGES.items():
            wrong = {"GET": ["POST", "PUT", "DELETE", "OPTIONS"], "POST": ["GET", "HEAD"]}[method]
            for other in wrong:
                status, fields, _ = await self.ask(path, other)
                assert status == 405
                assert fields["allow"] == "GET, HEAD" if method == "GET" else "POST"
            if method == "GET":
                status, fields, body = await self.ask(path, "HEAD")
                assert (status, body) == (200, "")
                assert fields["content-type"] == (await self.ask(path))[1]["content-type"]
        assert self.state.reopened == 0

    async def test_unknown_paths(self) -> None:
        """Anything else is 404."""
        for path in ("/nope", "/ready/", "//", "/logs", "/READY"):
            assert (await self.ask(path))[0] == 404

    async def test_reopening_logs(self) -> None:
        """POST reopens the logs, unless another site asks for it."""
        assert (await self.ask("/logs/reopen", "POST"))[0] == 200
        assert (
            await self.ask("/logs/reopen", "POST", origin=self.base, sec_fetch_site="same-origin")
        )[0] == 200
        for headers in ({"origin": "http://evil.example"}, {"sec_fetch_site": "cross-site"}):
            assert (await self.ask("/logs/reopen", "POST", **headers))[0] == 403
        assert self.state.reopened == 2

    async def test_foreign_hosts(self) -> None:
        """A name that is not this machine's is refused on every page (DNS rebinding)."""
        for path, method in PAGES.items():
            assert (await self.ask(path, method, host="evil.example"))[0] == 403
        assert (await self.ask("/ready", host="localhost:9901"))[0] == 200
        assert self.state.reopened == 0

    async def test_headers(self) -> None:
        """Nothing is cached, guessed at, framed or shared; forms still have an origin."""
        for path in ("/", "/ready", "/nope", "/metrics"):
            _, fields, _ = await self.ask(path)
            assert fields["cache-control"] == "no-store"
            assert fields["x-content-type-options"] == "nosniff"
            assert fields["referrer-policy"] == "same-origin"
            assert "default-src 'none'" in fields["content-security-policy"]
            assert "access-control-allow-origin" not in fields
            assert fields["server"] == "meshproxy"
