"""Certificates in force, and what becomes of them when their files change."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from meshproxy.tls.material import TlsFileError
from meshproxy.tls.ocsp import ANOTHER
from meshproxy.tls.shown import Shown, bearers
from tests.tls.authority import Authority, Issued
from tests.tls.exchange import certificate


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Who issues."""
    return Authority()


class Entry:
    """An entry of ``certificates`` with a response, whose files a test changes."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.folder = folder
        self.authority = authority
        self.told: list[str] = []
        self.now = time.time()
        self.first = self.issue()
        self.staple(authority.ocsp(self.first))
        config = certificate(chain="a.pem", key="a.key", ocsp="a.ocsp")
        self.shown = Shown(config, str(folder), self.now, self.told.append)

    def issue(self) -> Issued:
        """A new certificate in the files."""
        one = self.authority.issue("a.example")
        one.write(self.folder, "a")
        return one

    def staple(self, content: bytes) -> bytes:
        """A new response in the file."""
        (self.folder / "a.ocsp").write_bytes(content)
        return content

    def reload(self) -> bool:
        """Read them anew."""
        return self.shown.reload(self.now, self.told.append)

    @property
    def stapled(self) -> bytes:
        """What would be stapled now."""
        staple = self.shown.staple
        return staple.der if staple is not None and staple.state(self.now) == "good" else b""


@pytest.fixture
def entry(tmp_path: Path, authority: Authority) -> Entry:
    """One that is good."""
    return Entry(tmp_path, authority)


def test_nothing_new(entry: Entry) -> None:
    """Files that were written again as they were are no change."""
    pair = entry.shown.pair
    entry.first.write(entry.folder, "a")
    assert not entry.reload()
    assert entry.shown.pair is pair
    assert entry.told == []
    assert set(entry.shown.looks) == {
        str(entry.folder / f"a.{end}") for end in ("pem", "key", "ocsp")
    }


def test_a_new_response(entry: Entry) -> None:
    """It takes the old one's place; the certificate stays."""
    pair = entry.shown.pair
    fresh = entry.staple(entry.authority.ocsp(entry.first, days=9))
    assert entry.reload()
    assert entry.stapled == fresh
    assert entry.shown.pair is pair


@pytest.mark.parametrize("content", [b"broken", None])
def test_a_broken_response(entry: Entry, content: bytes | None) -> None:
    """The old one stays, which is told."""
    old = entry.stapled
    if content is None:
        (entry.folder / "a.ocsp").unlink()
    else:
        entry.staple(content)
    assert not entry.reload()
    assert entry.stapled == old != b""
    assert entry.told[0].startswith("ocsp: ")


def test_a_new_certificate_before_its_response(entry: Entry) -> None:
    """It is shown without one until its own comes."""
    fresh = entry.issue()
    assert entry.reload()
    assert (entry.shown.pair.leaf, entry.stapled) == (fresh.cert, b"")
    assert entry.told[-1].endswith(f"is not stapled: it is {ANOTHER}")
    der = entry.staple(entry.authority.ocsp(fresh))
    assert entry.reload()
    assert entry.stapled == der
    assert entry.told[-1].endswith("is stapled again")


def test_a_response_before_its_certificate(entry: Entry) -> None:
    """The old one stays until the certificate comes."""
    fresh = entry.authority.issue("a.example")
    der = entry.staple(entry.authority.ocsp(fresh))
    assert not entry.reload()
    assert entry.stapled != b""
    fresh.write(entry.folder, "a")
    assert entry.reload()
    assert (entry.shown.pair.leaf, entry.stapled) == (fresh.cert, der)


def test_a_revoked_certificate(entry: Entry) -> None:
    """The old response is not kept against the new one's word."""
    entry.staple(entry.authority.ocsp(entry.first, revoked=True))
    assert entry.reload()
    assert entry.stapled == b""


def test_a_stale_response_is_told_once(entry: Entry) -> None:
    """When it becomes so."""
    for days in (1, 8, 9):
        entry.shown.look(entry.now + days * 86400, entry.told.append)
    assert len(entry.told) == 1
    assert entry.told[0].endswith("is not stapled: it is stale")


def test_a_broken_certificate(entry: Entry) -> None:
    """Nothing changes, and why is raised."""
    pair = entry.shown.pair
    (entry.folder / "a.pem").write_bytes(entry.authority.issue("a").chain_pem)
    entry.staple(entry.authority.ocsp(entry.first, days=9))
    old = entry.shown.staple
    with pytest.raises(TlsFileError, match="does not belong"):
        entry.reload()
    assert (entry.shown.pair, entry.shown.staple) == (pair, old)


def test_a_broken_beginning(entry: Entry) -> None:
    """What cannot be read as the proxy starts is an error, a response too."""
    entry.staple(b"broken")
    config = certificate(chain="a.pem", key="a.key", ocsp="a.ocsp")
    with pytest.raises(TlsFileError) as caught:
        Shown(config, str(entry.folder), entry.now, entry.told.append)
    assert caught.value.key == "ocsp"


def test_bearers() -> None:
    """Each name has what bears it, one of each kind, and a wildcard's other kind beside."""

    def pair(kind: str, *names: str) -> Any:
        return SimpleNamespace(kind=kind, names=names)

    assert bearers([pair("ec")]) == {"": (0,)}
    assert bearers(
        [
            pair("rsa", "a", "b"),
            pair("ec", "b"),
            pair("ec", "b", "c"),
            pair("ec", "b", "a"),
            pair("rsa", "*.z"),
            pair("ec", "y.z"),
        ]
    ) == {
        "": (0, 3),
        "a": (0, 3),
        "b": (0, 1),
        "c": (2,),
        "*.z": (4,),
        "y.z": (4, 5),
    }
