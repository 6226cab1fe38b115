"""
What scanners find at the proxy's TLS with the default settings, where they are installed.

sslscan is asked each time; testssl, which takes minutes, in its quick form (marked ``slow``), and
whole for who sets ``MESHPROXY_TESTSSL`` to anything. Each finding above ``low`` has to be in
:data:`ALLOWED`, with the reason why it is not the proxy's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.harness import HOST, Proxy, Server, echo
from tests.tls.authority import Authority

#: Of testssl: what it says beside the certificate of a test.
ALLOWED = {
    "cert_revocation": "a test's certificate says nothing of where its CRL is",
    "security_headers": "such headers are the application's to set",
}
SEVERITIES = {"MEDIUM", "HIGH", "CRITICAL", "FATAL", "WARN"}

#: Warnings are what could not be tried, by testssl or by the openssl that it runs.
UNTRIED = {
    "RC4": "its openssl has no RC4",
    "sessionresumption_ticket": "it leaves before the ticket can come",
    "secure_client_renego": "it has no certificate for a listener that wants one",
    "BREACH": "likewise",
}

CONFIG = """
listeners:
  ec:
    listen: '127.0.0.1:$ec'
    tls: { certificates: [ &ec { chain: $folder/ec.pem, key: $folder/ec.key } ] }
    http: &http { routes: [ { respond: { body: hello } } ] }
  rsa:
    listen: '127.0.0.1:$rsa'
    tls: { certificates: [ &rsa { chain: $folder/rsa.pem, key: $folder/rsa.key } ] }
    http: *http
  web: { listen: '127.0.0.1:$web', tls: { certificates: &both [ *ec, *rsa ] }, http: *http }
  mutual:
    listen: '127.0.0.1:$mutual'
    tls: { certificates: *both, client_ca: $folder/ca.pem }
    http: *http
  raw: { listen: '127.0.0.1:$raw', tls: { certificates: *both }, tcp: { to: site } }
clusters:
  site: { endpoints: ['127.0.0.1:$site'] }
"""
LISTENERS = ("web", "ec", "rsa", "mutual", "raw")


@dataclass(frozen=True)
class Scanned:
    """The proxy, and the folder with its certificates."""

    proxy: Proxy
    folder: Path


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scanned]:
    """Listeners with the default settings."""
    folder = tmp_path_factory.mktemp("scanners")
    root = Authority("root CA")
    root.write(folder, "ca")
    below = root.intermediate("sub CA")
    below.issue("a.example", "localhost", HOST, days=80).write(folder, "ec")
    below.issue("a.example", "localhost", HOST, days=80, kind="rsa").write(folder, "rsa")
    text = CONFIG.replace("$folder", str(folder))
    with Server(echo) as site, Proxy(text, ports={"site": site.port}) as proxy:
        yield Scanned(proxy, folder)
        assert "Traceback" not in proxy.output


def _has(command: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(command) is None, reason=f"{command} is not installed")


@_has("sslscan")
@pytest.mark.parametrize("listener", LISTENERS)
def test_sslscan(scanned: Scanned, tmp_path: Path, listener: str) -> None:
    """TLS 1.2 and 1.3 alone, only strong ciphers with forward secrecy, nothing vulnerable."""
    report = tmp_path / "report.xml"
    subprocess.run(
        [
            "sslscan",
            f"--xml={report}",
            "--sni-name=a.example",
            f"{HOST}:{scanned.proxy.ports[listener]}",
        ],
        stdout=subprocess.DEVNULL,
        timeout=60,
        check=True,
    )
    found = ElementTree.parse(report).getroot()
    spoken = {
        f"{one.get('type')} {one.get('version')}"
        for one in found.iter("protocol")
        if one.get("enabled") == "1"
    }
    assert spoken == {"tls 1.2", "tls 1.3"}
    ciphers = [one.attrib for one in found.iter("cipher")]
    # Who shows no certificate gets no further in TLS 1.2, and so sslscan learns no cipher.
    versions = {one["sslversion"] for one in ciphers}
    assert versions == ({"TLSv1.3"} if listener == "mutual" else {"TLSv1.2", "TLSv1.3"})
    for one in ciphers:
        assert one["strength"] in ("acceptable", "strong"), one
        assert int(one["bits"]) >= 128
        assert re.match(
            "TLS_(AES|CHACHA)|ECDHE-(ECDSA|RSA)-(AES(128|256)-GCM|CHACHA)", one["cipher"]
        )
    assert all(one.get("vulnerable") == "0" for one in found.iter("heartbleed"))
    assert [one.attrib for one in found.iter("renegotiation")] == [
        {"supported": "0", "secure": "0"}
    ]
    assert all(one.get("supported") != "1" for one in found.iter("compression"))
    groups = {one.get("name") for one in found.iter("group")}
    assert groups <= {"x25519", "secp256r1 (NIST P-256)", "secp384r1 (NIST P-384)"}


def _testssl(scanned: Scanned, folder: Path, listener: str, *options: str) -> list[dict[str, str]]:
    """What testssl found that is above ``low`` and not allowed."""
    report = folder / "report.json"
    done = subprocess.run(
        [
            *("testssl", *options, "--quiet", "--color", "0", "--warnings", "off"),
            *("--add-ca", str(scanned.folder / "ca.pem"), "--jsonfile", str(report)),
            f"{HOST}:{scanned.proxy.ports[listener]}",
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    findings: list[dict[str, str]] = json.loads(report.read_text())
    assert any(one["id"] == "TLS1_3" and one["severity"] == "OK" for one in findings), done.stdout
    return [
        one
        for one in findings
        if one["severity"] in SEVERITIES
        and one["id"].split(" ")[0] not in ALLOWED
        and not (one["severity"] == "WARN" and one["id"] in UNTRIED)
    ]


@pytest.mark.slow
@_has("testssl")
def test_testssl_in_short(scanned: Scanned, tmp_path: Path) -> None:
    """Versions, ciphers and the vulnerabilities that have names: nothing above ``low``."""
    assert _testssl(scanned, tmp_path, "web", "-p", "-s", "-U", "--fast") == []


@pytest.mark.slow
@pytest.mark.skipif("MESHPROXY_TESTSSL" not in os.environ, reason="MESHPROXY_TESTSSL is not set")
@_has("testssl")
@pytest.mark.parametrize("listener", LISTENERS)
def test_testssl(scanned: Scanned, tmp_path: Path, listener: str) -> None:
    """Everything that it can try, a minute or two each: nothing above ``low`` that is ours."""
    assert _testssl(scanned, tmp_path, listener) == []
