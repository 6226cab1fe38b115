"""The whole way from a text to a configuration or to everything that is wrong with it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.config import Configuration, load, load_file
from meshproxy.config.reader import LONGEST_TEXT, plain, read
from meshproxy.config.section import Section
from meshproxy.errors import ConfigError
from tests.config.texts import EVERY_KEY, SMALL, lines_of, problems_of

#: What the vocabulary's example shows, of this version and beyond it.
EXAMPLE = """\
workers: 1
admin:
  listen: 127.0.0.1:9901

listeners:
  web:
    listen: 127.0.0.1:8080
    http:
      access_log: { path: "-", format: json }
      filters:
        - rate_limit: { requests: 100, per: 1s, burst: 50, by: client_ip }
      hosts:
        "old.example.com":
          routes:
            - redirect: { host: www.example.com, https: true, status: 301 }
      routes:
        - match: { path: /healthz }
          respond: { status: 200, body: "ok\\n" }
        - match: { prefix: /api/, methods: [GET, POST], headers: { x-beta: "1" } }
          to: { api: 90, api-canary: 10 }
          timeout: 5s
          retry: { on: [connect-failure, reset, 5xx], attempts: 2, per_try_timeout: 1s }
          rewrite: { prefix: / }
          request_headers: { set: { x-via: meshproxy }, remove: [x-internal] }
        - match: { prefix: /chat }
          to: chat
          upgrades: [websocket]
        - to: site
  secure:
    listen: 127.0.0.1:8443
    tls:
      certificates:
        - { chain: certs/site.pem, key: certs/site.key }
      alpn: [h2, http/1.1]
      client_ca: certs/clients.pem
      require_client_certificate: true
    http:
      routes: [{ to: site }]
  database:
    listen: 127.0.0.1:5432
    tcp:
      to: postgres
      idle_timeout: 1h
  by-name:
    listen: 127.0.0.1:9443
    tcp:
      routes:
        - match: { server_names: ["*.internal.example"] }
          to: internal-tls
  game:
    listen: 127.0.0.1:27015
    udp:
      to: game
      idle_timeout: 60s
      hash_by: source_ip
  names:
    listen: 127.0.0.1:5353
    dns:
      records:
        db.mesh.test.: { A: [10.0.0.5], AAAA: ["fd00::5"], TXT: ["primary"] }
        api.mesh.test.: { cluster: api }
      forward:
        corp.example.: corp-dns
        .: public-dns
      cache: { entries: 100000, serve_stale: 1h }

clusters:
  api:
    endpoints:
      - 127.0.0.1:9001
      - { address: 127.0.0.1:9002, weight: 2, labels: { version: v2 } }
      - { address: 127.0.0.1:9003, priority: 1 }
    balance: least_request
    connect_timeout: 1s
    pool: { max_connections: 100, idle_timeout: 60s }
    limits: { connections: 1024, pending: 1024, requests: 1024, retries: 3 }
    circuit_breaker: { failure_threshold: 5, base_ejection_time: 30s, max_ejection_percent: 50 }
    health_check:
      { http: /healthz, interval: 5s, timeout: 1s, unhealthy_threshold: 3, healthy_threshold: 2 }
  api-canary: { endpoints: [127.0.0.1:9004] }
  chat: { endpoints: [127.0.0.1:9005] }
  site:
    endpoints: [site.example:443]
    resolve: strict
    tls: { server_name: site.example }
  postgres: { endpoints: [127.0.0.1:15432, 127.0.0.1:15433] }
  internal-tls: { endpoints: [127.0.0.1:10443] }
  game: { endpoints: [127.0.0.1:28015, 127.0.0.1:28016] }
  corp-dns: { endpoints: [127.0.0.1:5301] }
  public-dns: { endpoints: [127.0.0.1:5302, 127.0.0.1:5303] }
"""


def place(needle: str, text: str = EXAMPLE, nth: int = 1) -> tuple[int, int]:
    """The line and column, from 1, of the nth occurrence of `needle`."""
    index = -1
    for _ in range(nth):
        index = text.index(needle, index + 1)
    before = text[:index]
    return before.count("\n") + 1, index - before.rfind("\n")


def test_every_key_of_this_version_loads() -> None:
    """A file with every key of http and tcp is valid, and nothing in it is doubtful."""
    loaded = load(EVERY_KEY, "m.yaml")
    assert loaded.warnings == ()
    assert (loaded.text, loaded.filename) == (EVERY_KEY, "m.yaml")
    assert list(loaded.configuration.listeners) == ["web", "db", "by-name"]


def test_the_file_with_every_key_has_every_key() -> None:
    """The text of that test is complete: a key that is added to the model is added to it."""

    def unset(model: object, path: str = "") -> list[str]:
        missing = []
        if isinstance(model, dict):
            for key, value in model.items():
                missing += unset(value, f"{path}.{key}")
        elif isinstance(model, list):
            for value in model:
                missing += unset(value, path)
        elif isinstance(model, Section):
            for key in type(model).model_fields:
                if key in model.model_fields_set:
                    missing += unset(getattr(model, key), f"{type(model).__name__}.{key}")
                    written.add(f"{type(model).__name__}.{key}")
                else:
                    missing.append(f"{type(model).__name__}.{key}")
        return missing

    written: set[str] = set()
    missing = unset(load(EVERY_KEY, "m.yaml").configuration)
    # That is warned of wherever it is written.
    assert set(missing) - written == {"ListenerTls.key_log", "ClusterTls.key_log"}


def test_the_examples_vocabulary_is_only_refused_as_not_supported() -> None:
    """Everything that is to come is refused as such, at its place, and nothing else is wrong."""
    problems = problems_of(EXAMPLE)
    assert [p.message for p in problems if "not supported by this version" not in p.message] == [
        "HTTP/2 is not there yet; write 'alpn: [http/1.1]', or leave it out"
    ]
    assert [(p.line, p.column) for p in problems] == [
        place("h2, http/1.1]"),
        place("udp:"),
        place("dns:"),
    ]


def test_what_is_built_of_the_example_loads() -> None:
    """Without the parts that were refused, the same text is valid; what only those used is told."""
    kept = EXAMPLE.splitlines()
    game, clusters = kept.index("  game:"), kept.index("clusters:")
    text = "\n".join([*kept[:game], *kept[clusters:]]).replace("alpn: [h2, http/1.1]", "alpn: []")
    assert {(warning.path, warning.message) for warning in load(text, "m.yaml").warnings} == {
        (f"clusters.{name}", "nothing sends to this cluster")
        for name in ("game", "corp-dns", "public-dns")
    }


def test_everything_is_reported_at_once() -> None:
    """Keys, values, missing keys, clusters and faults between keys, in the order of the text."""
    text = """\
workers: two
admin:
  listen: 0.0.0.0:9901
listeners:
  web:
    lisen: 127.0.0.1:8080
    http:
      hedaers_timeout: 1s
      idle_timeout: 5
      routes:
        - match: { prefix: api, regex: "(" }
          to: appi
        - match: { prefx: / }
          to: api
          respond: { status: 99 }
        -
  db:
    listen: 127.0.0.1:9901
    tcp: { to: { api: 0 } }
clusters:
  api: { endpoints: [127.0.0.1] , pool: { max_connections: "5" } }
"""
    expected = """\
1:10: workers: 1 is expected, not the text 'two'
3:11: admin.listen: the admin must be on a loopback address, and 0.0.0.0:9901 is not; write
    127.0.0.1, or 'allow_remote: true' if others may control it
6:5: listeners.web.lisen: unknown key 'lisen'; did you mean 'listen'?
8:7: listeners.web.http.hedaers_timeout: unknown key 'hedaers_timeout'; did you mean
    'headers_timeout'?
9:21: listeners.web.http.idle_timeout: a duration needs a unit (ms, s, m, h, d), and 5 has none;
    did you mean '5s'?
11:28: listeners.web.http.routes[0].match.prefix: a path begins with '/', and 'api' does not; did
    you mean '/api'?
11:40: listeners.web.http.routes[0].match.regex: 'prefix' is there already, and only one of 'path',
    'prefix' and 'regex' can be
11:40: listeners.web.http.routes[0].match.regex: not a regular expression: missing ), unterminated
    subpattern at character 1
12:15: listeners.web.http.routes[0].to: there is no cluster 'appi'; did you mean 'api'?
13:20: listeners.web.http.routes[1].match.prefx: unknown key 'prefx'; did you mean 'prefix'?
15:20: listeners.web.http.routes[1].respond: 'to' is there already, and only one of 'to', 'respond'
    and 'redirect' can be
15:30: listeners.web.http.routes[1].respond.status: this must be at least 200, and it is 99
16:10: listeners.web.http.routes[2]: a mapping (key: value) is expected, not nothing
19:23: listeners.db.tcp.to.api: this must be at least 1, and it is 0
21:22: clusters.api.endpoints[0]: the port is missing: write 127.0.0.1:PORT
21:60: clusters.api.pool.max_connections: a whole number is expected; take the quotes off '5'
"""
    assert lines_of(text) == expected.replace("\n    ", " ").splitlines()


def test_a_missing_key_is_reported_at_its_parent() -> None:
    """What is not there has no place of its own: the parent's key, or the item, is shown."""
    text = SMALL.replace("    listen: 127.0.0.1:8080\n", "")
    assert lines_of(text) == ["2:3: listeners.web.listen: 'listen' is missing"]
    text = SMALL.replace("- to: api", "- name: x")
    assert lines_of(text) == [
        "6:11: listeners.web.http.routes[0]: one of 'to', 'respond' and 'redirect' is needed"
    ]
    assert lines_of("clusters: {}\n") == ["1:1: listeners: 'listeners' is missing"]


def test_a_key_without_a_value_is_reported_at_the_key() -> None:
    """An empty value has no place that an eye would find, so the key is shown, and only once."""
    assert lines_of(SMALL.replace(" 127.0.0.1:8080", "")) == [
        "3:5: listeners.web.listen: 'listen' has no value; give it one or remove it"
    ]
    assert lines_of("listeners:\n  web:\n") == [
        "2:3: listeners.web: a mapping (key: value) is expected, not nothing"
    ]


def test_a_slip_in_a_needed_key_is_one_problem() -> None:
    """`lisen` is not also a missing `listen`, nor `htp` a missing `http`."""
    text = SMALL.replace("listen:", "lisen:").replace("http:", "htp:")
    assert [line.rpartition(": ")[2] for line in lines_of(text)] == [
        "unknown key 'lisen'; did you mean 'listen'?",
        "unknown key 'htp'; did you mean 'http'?",
    ]


def test_a_configuration_survives_writing() -> None:
    """What the admin shows, the values that were set, as JSON, is read as the same."""
    configuration = load(EVERY_KEY, "m.yaml").configuration
    text = json.dumps(configuration.model_dump(mode="json", exclude_unset=True))
    assert load(text, "again").configuration == configuration


def test_a_configuration_can_be_built_in_python() -> None:
    """The same checks hold without a text, so that a program can make one."""
    configuration = Configuration.model_validate(
        {"listeners": {"a": {"listen": ":0", "tcp": {"to": "b"}}}, "clusters": {}}
    )
    assert configuration.listeners["a"].max_connections == 100_000
    with pytest.raises(ValueError, match="one of 'http' and 'tcp' is needed"):
        Configuration.model_validate({"listeners": {"a": {"listen": ":0"}}})


def test_a_file_is_read(tmp_path: Path) -> None:
    """A file gives what its text gives, under its name."""
    path = tmp_path / "m.yaml"
    path.write_text(SMALL)
    loaded = load_file(path)
    assert (loaded.text, loaded.filename) == (SMALL, str(path))


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    """A missing file, a directory and a name that no file can have are reported, not raised."""
    for name in (tmp_path / "none.yaml", tmp_path, "a\0b"):
        with pytest.raises(ConfigError, match="1:1: the file cannot be read: "):
            load_file(name)


def test_a_file_that_is_not_utf8_is_a_problem(tmp_path: Path) -> None:
    """The first bad byte is shown, its column in characters."""
    path = tmp_path / "m.yaml"
    path.write_bytes(b"a: 1\n\xc3\xa9\xff: 2\n")
    with pytest.raises(ConfigError, match="2:2: a configuration is written in UTF-8"):
        load_file(path)


def test_a_file_over_the_bound_is_a_problem(tmp_path: Path) -> None:
    """It is not even read to its end."""
    path = tmp_path / "m.yaml"
    path.write_bytes(b"#" * (LONGEST_TEXT + 1))
    with pytest.raises(ConfigError, match="the file is longer than 4 MiB"):
        load_file(path)


def test_a_thousand_routes_load() -> None:
    """A large configuration loads, and its last mistake is found at its place."""
    routes = "".join(
        f"        - {{ match: {{ path: /p/{number} }}, to: api }}\n" for number in range(1000)
    )
    text = SMALL.replace("        - to: api\n", routes)
    assert len(load(text, "m").configuration.listeners["web"].http.routes) == 1000  # type: ignore[union-attr]
    broken = text.replace("{ path: /p/999 }", "{ path: p }")
    assert [(p.line, p.path) for p in problems_of(broken)] == [
        (1005, "listeners.web.http.routes[999].match.path")
    ]


WORDS = """listeners clusters web api http tcp listen routes match prefix to endpoints balance pool
respond status admin workers hosts headers set 1 0 5s true ~ '*' :80 127.0.0.1:80 / x
retry on attempts hedge per_try_timeout backoff base max mirror hash_by header cookie query
source_ip name ttl sticky subset subsets fallback default priority health_check dns tcp icmp
command interval
circuit_breaker failure_threshold base_ejection_time max_ejection_time half_open slow_start
limits requests retry_budget percent high endpoint_limits adaptive initial min rate discovery file
resolve strict srv address tls certificates chain key pkcs12 tickets alpn h2 client_ca client_names
pass_through server_names server_name ca pins verify min_version ciphers routes on_demand san
a.example:80 panic_threshold .nan timeouts exchange zone zone_aware"""
words = st.sampled_from(WORDS.split())
trees = st.recursive(
    st.one_of(words, st.integers(-5, 10**6), st.none(), st.booleans(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=4)),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(words, trees, max_size=4))
def test_any_document_is_loaded_or_a_config_error(document: object) -> None:
    """Whatever stands where, only ConfigError comes, with places and words for all of it."""
    for problem in problems_of(json.dumps(document)):
        assert problem.line == 1
        assert problem.message
        assert "cannot be used here" not in problem.message  # every kind of error has its words


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_a_valid_text_with_one_change_is_loaded_or_a_config_error(data: st.DataObject) -> None:
    """A valid file that was damaged anywhere never raises anything but ConfigError."""
    start = data.draw(st.integers(0, len(EVERY_KEY)))
    length = data.draw(st.integers(0, 12))
    text = EVERY_KEY[:start] + data.draw(st.text(max_size=6)) + EVERY_KEY[start + length :]
    assert all(problem.message for problem in problems_of(text))


def places(value: Any, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The way to every part of a document but the whole."""
    items: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    found: list[tuple[str | int, ...]] = []
    for key, inner in items:
        found += [(*at, key), *places(inner, (*at, key))]
    return found


DOCUMENT = plain(read(EVERY_KEY, "m"))
OTHERS = json.loads(
    '[null, true, false, 0, 1, -1, 1.5, "", "x", "5s", "0", "source_ip", "strict", "slow_start", '
    '"default", "none", "a.example:1", "127.0.0.1:1", [], {}, ["x"], [1], {"x": 1}, '
    '{"name": "a"}, {"header": "a"}, [{"cookie": "a"}], [{}], NaN]'
)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(places(DOCUMENT)), st.sampled_from(OTHERS)), max_size=3))
def test_any_part_may_be_anything(changes: list[tuple[tuple[str | int, ...], Any]]) -> None:
    """Whatever stands in place of a value is loaded or has words, beside whatever else is there."""
    document = copy.deepcopy(DOCUMENT)
    for path, value in changes:
        inner: Any = document
        try:
            for step in path[:-1]:
                inner = inner[step]
            inner[path[-1]] = copy.deepcopy(value)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took it away
    for problem in problems_of(json.dumps(document).replace("NaN", ".nan")):
        assert "cannot be used here" not in problem.message


def test_a_later_problem_finds_its_place() -> None:
    """What another room finds wrong is reported where it is written, or where it would be."""
    text = (
        "listeners:\n"
        "  web:\n"
        "    listen: 127.0.0.1:0\n"
        "    http:\n"
        '      access_log: { path: "-", format: "%NONE%" }\n'
        "      routes: [{ respond: {} }]\n"
    )
    loaded = load(text, "mesh.yaml")
    path = ("listeners", "web", "http", "access_log", "format")
    assert str(loaded.problem(path, "no such operator")) == (
        "mesh.yaml:5:40: listeners.web.http.access_log.format: no such operator"
    )
    assert loaded.problem(("listeners", "web", "tcp"), "none").line == 3
    # One item in place of a list of one has no index.
    alone = loaded.problem((*path[:4], 0, "format"), "no such operator")
    assert str(alone) == str(loaded.problem(path, "no such operator"))


def test_a_problem_of_another_room_has_its_place() -> None:
    """Keys and indices lead to a part of the text; where they end early, to what is there."""
    loaded = load(SMALL, "m.yaml")
    path = ("listeners", "web", "http", "routes", 0)
    for place, start in ((path, "m.yaml:6:11: "), ((*path, "filters", 3), "m.yaml:6:11: ")):
        problem = loaded.problem(place, "it is odd")
        assert str(problem).startswith(start)
    assert problem.path == "listeners.web.http.routes[0].filters[3]"
