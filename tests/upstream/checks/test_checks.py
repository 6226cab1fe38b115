"""Which check a configuration asks for."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from meshproxy.net.reactor import MeshReactor
from meshproxy.upstream.checks import make_check
from meshproxy.upstream.checks.command import CommandCheck
from meshproxy.upstream.checks.dns import DnsCheck
from meshproxy.upstream.checks.icmp import IcmpCheck
from meshproxy.upstream.checks.tcp import TcpCheck
from tests.harness import ROOT
from tests.upstream.checks.asking import config


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"tcp": True}, TcpCheck),
        ({"icmp": True}, IcmpCheck),
        ({"dns": "x.example"}, DnsCheck),
        ({"command": ["true"]}, CommandCheck),
    ],
)
def test_each_by_its_name(reactor: MeshReactor, fields: dict[str, Any], kind: type) -> None:
    """The check is what the configuration says, and bears the name."""
    check = make_check(config(**fields), reactor)
    assert type(check) is kind
    assert check.name == next(iter(fields))


def test_http_is_made_elsewhere(reactor: MeshReactor) -> None:
    """This floor knows no HTTP."""
    with pytest.raises(ValueError, match="elsewhere"):
        make_check(config(http="/"), reactor)


def test_dnspython_is_imported_for_dns_only() -> None:
    """Who has no such check does not pay for it."""
    code = "import sys, meshproxy.upstream.checks; sys.exit('dns.message' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
