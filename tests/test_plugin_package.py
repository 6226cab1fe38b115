"""
The example of a package with filters: built and installed as its users would, and used.

It is installed into a virtual environment of its own, which sees what the tests' interpreter has
installed; nothing is downloaded, and nothing of the package is imported from the checkout.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import listings
from tests.harness import PATIENCE, ROOT, HttpUpstream, Proxy, command, run
from tests.listings import commands

PACKAGE = ROOT / "docs" / "examples" / "plugin-package"
MODULES = (
    "example_filters/__init__.py",
    "example_filters/line_limit.py",
    "example_filters/py.typed",
    "example_filters/tenant.py",
    "twisted/plugins/example_filters_plugins.py",
)

#: What pip would have written, had Twisted been installed into this environment itself.
_TWISTD = "#!{python}\nimport sys\nfrom twisted.scripts.twistd import run\nsys.exit(run())\n"

# A machine may have a setuptools that makes no wheels by itself, and no package that it would make
# them with. The same files are installed by setuptools alone then.
_WITHOUT_WHEELS = (
    "import setuptools; setuptools.setup(script_args=['-q', 'install', "
    "'--single-version-externally-managed', '--record', 'installed.txt', '--no-compile'])"
)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("setuptools") is None, reason="needs setuptools to build a package"
)


def makes_wheels() -> bool:
    """Whether pip can build a wheel here without a download."""
    return any(
        importlib.util.find_spec(name) for name in ("wheel", "setuptools.command.bdist_wheel")
    )


def called(words: list[str], directory: Path) -> None:
    """Run a command to its end, without the checkout on its path; its failure is the test's."""
    known = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ended = subprocess.run(
        words,
        cwd=directory,
        env={**known, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment in which the package is installed."""
    place = tmp_path_factory.mktemp("package")
    source = place / "source"
    shutil.copytree(PACKAGE, source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    called([sys.executable, "-m", "venv", "--without-pip", str(place / "venv")], place)
    python = place / "venv" / "bin" / "python"
    shared = [str(ROOT), *(path for path in sys.path if path.endswith("-packages"))]
    (installed_in(python) / "shared.pth").write_text("\n".join(shared) + "\n")
    if makes_wheels():
        words = ["--no-deps", "--no-build-isolation", "--no-index", "-q", str(source)]
        called([sys.executable, "-m", "pip", "--python", str(python), "install", *words], place)
    else:
        called([str(python), "-c", _WITHOUT_WHEELS], source)
    twistd = python.with_name("twistd")
    twistd.write_text(_TWISTD.format(python=python))
    twistd.chmod(0o755)
    shutil.rmtree(source)
    return python


def installed_in(python: Path) -> Path:
    """The folder of an environment that packages are installed into."""
    (found,) = (python.parent.parent / "lib").glob("python*/site-packages")
    return found


@pytest.fixture
def within(python: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the harness starts is started in that environment."""
    monkeypatch.setattr(sys, "executable", str(python))
    return python


def test_what_is_installed(python: Path) -> None:
    """All modules, the plugin among Twisted's, nothing that would hide Twisted, and no tests."""
    place = installed_in(python)
    files = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    ours = {path for path in files if "-info" not in path and "__pycache__" not in path}
    assert ours - {"twisted/plugins/dropin.cache"} == {"shared.pth", *MODULES}
    assert [path for path in files if path.endswith(("-info/METADATA", "-info/PKG-INFO"))]


def test_its_filters_are_found(within: Path, tmp_path: Path) -> None:
    """twistd lists them and shows their options; no configuration has to say where they are."""
    listed = run(["--help-filters"], tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert re.search(
        r"^\s*tenant\b.*Ask a service whose key this is\.$", listed.stdout, re.MULTILINE
    )
    assert re.search(
        r"^\s*line_limit\b.*Refuse lines that are too long\.$", listed.stdout, re.MULTILINE
    )
    shown = run(["--help-filter", "tenant"], tmp_path)
    assert shown.stdout.startswith("tenant (http): Ask a service whose key this is.\n")
    assert "keep: duration = 1m\n" in shown.stdout


def test_a_mistake_in_its_options_is_told_with_its_place(within: Path, tmp_path: Path) -> None:
    """As for a filter of meshproxy's own."""
    text = (PACKAGE / "example.yaml").read_text()
    (tmp_path / "wrong.yaml").write_text(text.replace("blocked:", "blokced:"))
    checked = run(["--check", "--config", "wrong.yaml"], tmp_path)
    assert checked.returncode != 0
    assert re.search(
        r"^wrong\.yaml:6:\d+: .*; did you mean 'blocked'\?$", checked.stderr, re.MULTILINE
    )


def test_its_own_tests_pass(within: Path, tmp_path: Path) -> None:
    """Against what was installed: the package's source is not beside them."""
    shutil.copytree(PACKAGE / "tests", tmp_path / "tests")
    words = [str(within), "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    ended = command(words, tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"^\d\d passed in ", ended.stdout, re.MULTILINE), ended.stdout


PROXY = """
listeners:
  web:
    listen: '127.0.0.1:$web'
    http:
      filters: [{ tenant: { url: 'http://127.0.0.1:$keys/', keep: 1h } }]
      routes: [{ to: site }]
clusters: { site: { endpoints: ['127.0.0.1:$site'] } }
"""


def test_a_proxy_with_it(within: Path) -> None:
    """A real service is asked once, the upstream is told, and a key of nobody's is refused."""
    found = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nann\n"
    none = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
    with (
        HttpUpstream(lambda r: found if r.values(b"x-api-key") == [b"sesame"] else none) as keys,
        HttpUpstream() as site,
        Proxy(PROXY, ports={"keys": keys.port, "site": site.port}) as proxy,
    ):
        for _ in range(2):
            assert proxy.get("web", "/", x_api_key="sesame").status == 200
        assert proxy.get("web", "/", x_api_key="other").status == 403
        assert proxy.get("web", "/").status == 401
        assert len(keys.requests) == 2
        assert [request.values(b"x-tenant") for request in site.requests] == [[b"ann"]] * 2
        metrics = proxy.get("admin", "/metrics").body
        assert b'meshproxy_filter_tenant_asked_total{filter="tenant",listener="web"} 2.0' in metrics


@pytest.mark.skipif(
    not listings.namespaces(), reason="needs curl, ip and unshare, and leave to use them"
)
def test_the_commands_of_its_readme(within: Path, tmp_path: Path) -> None:
    """What its page shows is what a reader sees."""
    shown = commands((PACKAGE / "README.md").read_text())
    assert len(shown) == 7
    ended = listings.run_apart(shown, tmp_path, "docs/examples/plugin-package")
    assert ended.returncode == 0, ended.stdout + ended.stderr
