"""The command line of ``twistd meshproxy``."""

from __future__ import annotations

import json
import signal
import socket
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from meshproxy import __version__
from meshproxy.tap import Options
from tests import harness
from tests.harness import HOST, HttpUpstream, Proxy, Server, echo

GOOD = """\
listeners:
  web:
    listen: 127.0.0.1:1
    http:
      routes:
        - respond: { status: 200 }
"""
BAD = """\
listenrs: {}
listeners:
  web:
    listen: 127.0.0.1:80
    http:
      routes:
        - to: nowhere
"""


def write(directory: Path, text: str) -> str:
    """A configuration file; its path."""
    file = directory / "mesh.yaml"
    file.write_text(text)
    return str(file)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What standard error says when the options are refused with status 1."""
    with pytest.raises(SystemExit) as ended:
        Options().parseOptions(list(words))
    assert ended.value.code == 1
    out, err = capsys.readouterr()
    assert out == ""
    return err


def answered(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What standard output says when the options only ask something, with status 0."""
    with pytest.raises(SystemExit) as ended:
        Options().parseOptions(list(words))
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version names meshproxy first, then what it runs on."""
    assert answered(capsys, "--version").startswith(f"meshproxy {__version__} (Twisted ")


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    """--schema prints a JSON Schema with the keys of a configuration."""
    schema = json.loads(answered(capsys, "--schema"))
    assert {"listeners", "clusters", "admin"} <= set(schema["properties"])


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    """--help lists the options and says what happens without any."""
    text = answered(capsys, "--help")
    for option in (
        "--config",
        "--check",
        "--schema",
        "--http",
        "--tcp",
        "--help-filters",
        "--make-certs",
    ):
        assert option in text
    assert "demonstration" in text


def test_check_accepts_a_good_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--check of a good configuration says so and exits with 0."""
    assert "is good" in answered(capsys, "--config", write(tmp_path, GOOD), "--check")


def test_check_prints_warnings(tmp_path: Path) -> None:
    """What is doubtful is told, and is no error."""
    text = GOOD + "clusters: { idle: { endpoints: ['127.0.0.1:9'] } }\n"
    ended = harness.run(["--check", "--config", write(tmp_path, text)], tmp_path)
    assert ended.returncode == 0
    assert "warning: " in ended.stderr
    assert "idle" in ended.stderr


def test_every_error_is_printed(tmp_path: Path) -> None:
    """A bad file's errors come all at once, each with its line; status 1, no traceback."""
    ended = harness.run(["--config", write(tmp_path, BAD)], tmp_path)
    assert ended.returncode == 1
    lines = ended.stderr.splitlines()
    assert [line.split("mesh.yaml:")[1].split(":")[0] for line in lines] == ["1", "7"]
    assert "did you mean 'listeners'?" in lines[0]
    assert "nowhere" in lines[1]
    assert ended.stdout == ""


def test_a_bad_log_format_is_found_by_check(tmp_path: Path) -> None:
    """--check finds what only the room that writes the log can judge, and creates no log."""
    text = GOOD + "      access_log: { path: access.log, format: '%NO_SUCH_OPERATOR%' }\n"
    ended = harness.run(["--check", "--config", write(tmp_path, text)], tmp_path)
    assert ended.returncode == 1
    assert "NO_SUCH_OPERATOR" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "access.log").exists()


def test_a_bad_log_format_does_not_start(tmp_path: Path) -> None:
    """The same without --check: one line and status 1."""
    text = GOOD + "      access_log: { path: access.log, format: '%NO_SUCH_OPERATOR%' }\n"
    ended = harness.run(["--config", write(tmp_path, text)], tmp_path)
    assert ended.returncode == 1
    assert "NO_SUCH_OPERATOR" in ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout


def test_a_missing_file(tmp_path: Path) -> None:
    """A file that is not there is named, with the reason; no traceback."""
    ended = harness.run(["--config", "no/such.yaml"], tmp_path)
    assert ended.returncode == 1
    assert "no/such.yaml" in ended.stderr
    assert "No such file" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--bogus"], "option --bogus not recognized"),
        (["mesh.yaml"], "unexpected 'mesh.yaml'"),
        (["--check"], "--check needs a configuration"),
        (["--config", "x", "--http", ":1=127.0.0.1:2"], "cannot be combined"),
        (["--http", ":1"], "--http :1: LISTEN=UPSTREAM is expected"),
        (["--tcp", "=127.0.0.1:1"], "--tcp =127.0.0.1:1: LISTEN=UPSTREAM is expected"),
        (["--tcp", ":1=127.0.0.1:99999"], "--tcp :1=127.0.0.1:99999: a port is a number"),
        (["--http", "1=127.0.0.1:9"], "did you mean ':1'?"),
        (["--help-filter", "none-such"], "no filter called 'none-such'"),
        (["--make-certs"], "option --make-certs requires argument"),
        (["--make-certs", ""], "--make-certs needs a directory"),
        (["--make-certs", "/dev/null/certs"], "--make-certs: say for which names"),
        (["--make-certs", "/dev/null/certs", "a.example"], "--make-certs: /dev/null"),
        (["--make-certs", "/dev/null/certs", "a b"], "'a b' is neither a DNS name nor"),
    ],
)
def test_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong options are one clear line on standard error and status 1."""
    assert said in refused(capsys, *words)


def test_all_short_forms_are_judged(capsys: pytest.CaptureFixture[str]) -> None:
    """Errors of several --http and --tcp come together, each with its own option."""
    said = refused(capsys, "--http", "1=127.0.0.1:9", "--tcp", ":2=example.com:80")
    assert "--http 1=127.0.0.1:9: " in said
    assert "a host name needs 'resolve: strict' or 'resolve: logical'" in said


def test_the_short_form_is_a_configuration(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each --http or --tcp is a listener and a cluster; an endpoint description may hold an '='."""
    options = Options()
    options.parseOptions(
        [
            "--http",
            "tcp:0:interface=127.0.0.1=127.0.0.1:9",
            "--tcp",
            ":2=unix:/s",
            "--tcp",
            ":3=[::1]:4",
        ]
    )
    assert options.loaded is not None
    configuration = options.loaded.configuration
    told = {
        name: (listener.listen.text, str(configuration.clusters[name].endpoints[0].address))
        for name, listener in configuration.listeners.items()
    }
    assert told == {
        "http-1": ("tcp:0:interface=127.0.0.1", "127.0.0.1:9"),
        "tcp-2": ("0.0.0.0:2", "unix:/s"),
        "tcp-3": ("0.0.0.0:3", "[::1]:4"),
    }
    assert configuration.listeners["http-1"].http is not None
    assert configuration.listeners["tcp-2"].tcp is not None


def dropin(directory: Path, name: str, source: str) -> Path:
    """A folder to put on the path, with a plugin module of the user's own in it."""
    folder = directory / "twisted" / "plugins"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(dedent(source))
    return directory


FILTERS = """
    from pydantic import BaseModel, Field
    from twisted.plugin import IPlugin
    from zope.interface import implementer
    from meshproxy.interfaces import IFilterFactory

    class Place(BaseModel):
        path: str = Field(description="Where.")

    class Settings(BaseModel):
        keys: list[str] = Field(description="The keys that are let in.")
        realm: str = Field(default="api", description="What it is called.")
        places: dict[str, Place] = Field(default={}, description="Where it is asked for.")
        elsewhere: Place | None = Field(default=None, description="Where it is not.")

    @implementer(IPlugin, IFilterFactory)
    class Factory:
        kinds = ("http", "tcp")
        def __init__(self, name, help, options):
            self.name, self.help, self.options = name, help, options
        def create(self, options):
            return object()

    key = Factory("require_key", "Lets in who has a key.", Settings)
    plain = Factory("plain", "Does little.", None)

    class Other(Factory):
        kinds = ("udp",)

    other = Other("require_key", "For another kind.", None)

    class Gone(Factory):
        @property
        def kinds(self):
            import no_such_library

    gone = Gone("gone", "Needs a library.", None)
"""


def test_help_filters_lists_a_users_own(tmp_path: Path) -> None:
    """A dropin on the path is listed with its help; one that does not import is named beside it."""
    dropin(tmp_path, "mine_filters", FILTERS)
    dropin(tmp_path, "mine_broken", "import no_such_module_anywhere\n")
    ended = harness.run(["--help-filters"], tmp_path, tmp_path)
    assert ended.returncode == 0
    listed = [line.split(None, 2) for line in ended.stdout.splitlines()]
    assert ["require_key", "http,tcp", "Lets in who has a key."] in listed
    assert ["require_key", "udp", "For another kind."] in listed
    assert [
        "gone",
        "-",
        (
            "the filter 'gone' of twisted.plugins.mine_filters.gone cannot be used: "
            "ModuleNotFoundError: No module named 'no_such_library'"
        ),
    ] in listed
    assert ["access", "http"] in [line[:2] for line in listed]
    assert (
        "twisted.plugins.mine_broken does not import: ModuleNotFoundError: "
        "No module named 'no_such_module_anywhere'"
    ) in ended.stdout


def test_help_filter_shows_the_options(tmp_path: Path) -> None:
    """--help-filter tells each option's type, default and meaning, or that there are none."""
    dropin(tmp_path, "mine_filters", FILTERS)
    ended = harness.run(["--help-filter", "require_key"], tmp_path, tmp_path)
    assert ended.stdout.splitlines() == [
        "require_key (http, tcp): Lets in who has a key.",
        "",
        "keys: list of text",
        "    The keys that are let in.",
        "realm: text = api",
        "    What it is called.",
        "places: mapping of text to Place = {}",
        "    Where it is asked for.",
        "    path: text",
        "        Where.",
        "elsewhere: Place = none",
        "    Where it is not.",
        "    (Place: as above)",
        "",
        "require_key (udp): For another kind.",
        "No listener speaks what it is for yet.",
        "",
        "It has no options.",
    ]
    ended = harness.run(["--help-filter", "plain"], tmp_path, tmp_path)
    assert "It has no options." in ended.stdout
    ended = harness.run(["--help-filter", "gone"], tmp_path, tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        "meshproxy: the filter 'gone' of twisted.plugins.mine_filters.gone cannot be used: "
        "ModuleNotFoundError: No module named 'no_such_library'\n"
    )


def test_what_is_asked_of_the_directories_of_a_file(tmp_path: Path) -> None:
    """The plugins of a file are found whatever else is wrong with it; a directory must be there."""
    dropin(tmp_path / "mine", "mine_of_a_file", FILTERS)
    (tmp_path / "mesh.yaml").write_text("plugins: [mine]\nlisteners: 5\n")
    ended = harness.run(["--config", "mesh.yaml", "--help-filters"], tmp_path)
    assert "Lets in who has a key." in ended.stdout
    ended = harness.run(["--help-filter", "plain", "--config", "mesh.yaml"], tmp_path)
    assert ended.stdout.startswith("plain (http, tcp): Does little.\n")
    ended = harness.run(["--schema", "--config", "mesh.yaml"], tmp_path)
    forms = json.loads(ended.stdout)["$defs"]["TcpFilter"]["anyOf"]
    assert {"title": "plain", "description": "Does little.", "const": "plain"} in forms
    ended = harness.run(["--schema"], tmp_path)
    assert "Does little." not in ended.stdout
    (tmp_path / "mesh.yaml").write_text("plugins: [none]\n")
    ended = harness.run(["--config", "mesh.yaml", "--help-filters"], tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("mesh.yaml:1:11: plugins[0]: the directory ")


SERVICED = f"""\
plugins: [{harness.ROOT / "tests" / "dropins"}]
listeners:
  web:
    listen: 127.0.0.1:0
    http:
      filters: [t_serviced: {{ word: WORD }}, t_limit: {{ requests: NUMBER }}]
      routes: [respond: {{ body: "here" }}]
"""


def test_what_a_filter_refuses_is_found_by_check(tmp_path: Path) -> None:
    """--check makes every filter, and tells what one refuses at its place; nothing is started."""
    text = SERVICED.replace("WORD", "bad")
    config = write(tmp_path, text.replace("NUMBER", "13"))
    ended = harness.run(["--check", "--config", config], tmp_path)
    assert (ended.returncode, ended.stderr) == (
        1,
        f"{config}:6:53: listeners.web.http.filters[1].t_limit: 13 brings bad luck\n",
    )
    ended = harness.run(
        ["--check", "--config", write(tmp_path, text.replace("NUMBER", "1"))], tmp_path
    )
    assert ended.returncode == 0


def test_a_filter_that_does_not_start(tmp_path: Path) -> None:
    """It is one line that names the filter, and status 1."""
    text = SERVICED.replace("WORD", "bad").replace("NUMBER", "1")
    ended = harness.run(["--config", write(tmp_path, text)], tmp_path)
    assert ended.returncode == 1
    assert ended.stderr == (
        "meshproxy: filter 't_serviced' of listener 'web' (listeners.web.http.filters[0]) does "
        "not start: no such luck\n"
    )
    assert "Traceback" not in ended.stdout


def test_certificates_are_made(tmp_path: Path) -> None:
    """--make-certs writes them, says so with the YAML that uses them, and starts nothing."""
    ended = harness.run(["--make-certs", "certs", "localhost", "client:jo"], tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert sorted(file.name for file in (tmp_path / "certs").iterdir()) == [
        "ca.key", "ca.pem", "client-jo.key", "client-jo.pem", "localhost.key", "localhost.pem",
    ]  # fmt: skip
    assert "- { chain: certs/localhost.pem, key: certs/localhost.key }" in ended.stdout
    assert not (tmp_path / "twistd.pid").exists()


def test_nothing_of_tls_is_loaded_that_is_not_asked_for(tmp_path: Path) -> None:
    """The command line itself, and a configuration without TLS, do without its libraries."""
    checked = "import sys; from meshproxy import tap; tap.Options(); print(*sys.modules)"
    ended = harness.command([sys.executable, "-c", checked], tmp_path)
    assert ended.returncode == 0, ended.stderr
    loaded = set(ended.stdout.split())
    assert "meshproxy.tap" in loaded
    assert loaded & {"cryptography", "OpenSSL", "meshproxy.tls.make_certs"} == set()


def test_the_short_form_proxies() -> None:
    """``--http`` and ``--tcp`` without a file carry traffic."""
    with HttpUpstream() as upstream, Server(echo) as echoing:
        arguments = [
            "--http", f"{HOST}:$web={upstream.address}",
            "--tcp", f"{HOST}:$raw={echoing.address}",
        ]  # fmt: skip
        with Proxy(arguments=arguments, ready="raw") as proxy:
            assert proxy.get("web", "/").body == b"ok\n"
            with proxy.connect("raw") as sock:
                sock.sendall(b"hello")
                sock.shutdown(socket.SHUT_WR)
                assert harness.read_to_end(sock) == b"hello"


def test_a_busy_port(tmp_path: Path) -> None:
    """A port that is taken is one line that names the listener, and status 1."""
    with Server(echo) as taken:
        text = GOOD.replace("127.0.0.1:1", taken.address)
        ended = harness.run(["--config", write(tmp_path, text)], tmp_path)
    assert ended.returncode == 1
    assert ended.stderr == (
        f"meshproxy: listener 'web' cannot listen on {taken.address}: Address already in use\n"
    )
    assert "Traceback" not in ended.stdout


def test_all_or_nothing(tmp_path: Path) -> None:
    """Where one listener cannot be bound, nothing is served by the others."""
    with Server(echo) as taken:
        port = harness.free_port()
        text = f"""\
listeners:
  first: {{ listen: "127.0.0.1:{port}", http: {{ routes: [{{ respond: {{}} }}] }} }}
  second: {{ listen: "{taken.address}", http: {{ routes: [{{ respond: {{}} }}] }} }}
"""
        ended = harness.run(["--config", write(tmp_path, text)], tmp_path)
    assert ended.returncode == 1
    assert "listener 'second' cannot listen" in ended.stderr


CONFIGURATION = """
listeners: { web: { listen: '127.0.0.1:$web', http: { routes: [{ respond: { body: x } }] } } }
"""


@pytest.mark.parametrize(
    ("reactor", "name"),
    [
        (None, "MeshReactor"),
        ("epoll", "EPollReactor"),
        ("poll", "PollReactor"),
        ("asyncio", "AsyncioSelectorReactor"),
    ],
)
def test_the_reactor(reactor: str | None, name: str) -> None:
    """Meshproxy's own reactor unless ``--reactor`` chose another; it serves on each."""
    with Proxy(CONFIGURATION, reactor=reactor) as proxy:
        assert proxy.get("web", "/").body == b"x"
        assert f"{name}" in proxy.stdout
        assert proxy.stop() == -signal.SIGTERM
        assert "Traceback" not in proxy.output


def test_it_daemonizes(tmp_path: Path) -> None:
    """Without -n it goes to the background after binding, with a pid file, and ends by a signal."""
    port = harness.free_port()
    file = write(tmp_path, GOOD.replace("127.0.0.1:1", f"127.0.0.1:{port}"))
    arguments = [
        word for word in harness.twistd(["--config", file]) if word not in ("-n", "--pidfile=")
    ]
    ended = harness.command(arguments, tmp_path)
    assert ended.returncode == 0, ended.stderr
    pid = int((tmp_path / "twistd.pid").read_text())
    try:
        with harness.connect(port) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert harness.read_to_end(sock).startswith(b"HTTP/1.1 200 ")
    finally:
        harness.end_daemon(pid)
    assert not (tmp_path / "twistd.pid").exists()
