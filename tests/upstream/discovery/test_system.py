"""/etc/hosts and /etc/resolv.conf, as people write them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.upstream.discovery import system
from meshproxy.upstream.discovery.system import Hosts, ResolvConf, Settings

DEFAULT = Settings((("127.0.0.1", 53),), (), 1)


def replace(path: Path, text: str) -> None:
    """Put a new file in the place of ``path``."""
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)


def test_hosts(tmp_path: Path) -> None:
    """Several addresses of a name, several names of an address, comments, any case."""
    path = tmp_path / "hosts"
    path.write_text(
        "# a comment\n127.0.0.1 localhost\n10.0.0.1\tApi.Test api # the API\n"
        "10.0.0.2 api.test\n10.0.0.2 api.test\nfd00::1 api.test.\nnonsense api.test\n10.0.0.3\n"
    )
    hosts = Hosts(str(path))
    assert hosts.find("api.test") == ["10.0.0.1", "10.0.0.2", "fd00::1"]
    assert hosts.find("api") == ["10.0.0.1"]
    assert hosts.find("other") == []


def test_hosts_are_read_again_when_they_changed(tmp_path: Path) -> None:
    """And only then; a file that went away knows nobody."""
    path = tmp_path / "hosts"
    hosts = Hosts(str(path))
    assert hosts.find("api") == []
    path.write_text("10.0.0.1 api\n")
    assert hosts.find("api") == ["10.0.0.1"]
    kept = hosts._names
    assert hosts.find("api") == ["10.0.0.1"]
    assert hosts._names is kept
    replace(path, "10.0.0.2 api\n")
    assert hosts.find("api") == ["10.0.0.2"]
    path.unlink()
    assert hosts.find("api") == []


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("", DEFAULT),
        ("nameserver 10.0.0.1\n", Settings((("10.0.0.1", 53),))),
        (
            "; comment\n# another\nnameserver 10.0.0.1\nnameserver fd00::1\nnameserver no\n",
            Settings((("10.0.0.1", 53), ("fd00::1", 53))),
        ),
        (
            "nameserver\nsearch a.test b.test.\noptions timeout:1 ndots:5\n",
            Settings(search=("a.test", "b.test"), ndots=5),
        ),
        ("search a.test\ndomain b.test\n", Settings(search=("b.test",))),
        ("domain b.test\nsearch a.test\n", Settings(search=("a.test",))),
        ("search .\n", DEFAULT),
        ("options ndots:99999\n", Settings(ndots=15)),
        ("options ndots:x ndots: ndots:-1 rotate\n", DEFAULT),
    ],
)
def test_resolv_conf(tmp_path: Path, text: str, settings: Settings) -> None:
    """Servers in order, the last of search and domain, ndots; nonsense is passed over."""
    path = tmp_path / "resolv.conf"
    path.write_text(text)
    assert ResolvConf(str(path)).settings() == settings


def test_resolv_conf_is_read_again_when_it_changed(tmp_path: Path) -> None:
    """A laptop that changes its network has other servers; without a file it is this machine."""
    path = tmp_path / "resolv.conf"
    conf = ResolvConf(str(path))
    assert conf.settings() == DEFAULT
    path.write_text("nameserver 10.0.0.1\n")
    assert conf.settings().servers == (("10.0.0.1", 53),)
    replace(path, "nameserver 10.0.0.2\n")
    assert conf.settings().servers == (("10.0.0.2", 53),)


def test_a_directory_in_their_place(tmp_path: Path) -> None:
    """What cannot be read is as if it were not there."""
    assert Hosts(str(tmp_path)).find("api") == []
    assert ResolvConf(str(tmp_path)).settings() == DEFAULT


@given(st.text(max_size=300))
def test_any_text(text: str) -> None:
    """Whatever stands in resolv.conf gives somebody to ask, and bounded lists."""
    settings = system._settings(list(system._lines(text)))
    assert settings.servers
    assert 0 <= settings.ndots <= 15
    assert len(settings.search) <= 32
