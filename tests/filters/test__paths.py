"""The normal form of paths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.filters._paths import Encoded, normal_path


@pytest.mark.parametrize(
    ("path", "form"),
    [
        (b"/admin", b"/admin"),
        (b"/admin/", b"/admin/"),
        (b"/%61dmin", b"/admin"),
        (b"/%41", b"/A"),
        (b"/a%7eb", b"/a~b"),
        (b"/a%3fb", b"/a%3Fb"),
        (b"/%2561dmin", b"/%2561dmin"),
        (b"//admin", b"/admin"),
        (b"/a//b///c", b"/a/b/c"),
        (b"/a//", b"/a/"),
        (b"/./admin", b"/admin"),
        (b"/x/../admin", b"/admin"),
        (b"/x/%2e%2E/admin", b"/admin"),
        (b"/x/.%2e/admin", b"/admin"),
        (b"/../../admin", b"/admin"),
        (b"/admin/.", b"/admin/"),
        (b"/admin/x/..", b"/admin/"),
        (b"/..", b"/"),
        (b"/...", b"/..."),
        (b"/.hidden", b"/.hidden"),
        (b"/a;b=c", b"/a;b=c"),
        (b"*", b"*"),
    ],
)
def test_one_form_for_every_spelling(path: bytes, form: bytes) -> None:
    """Encoded letters, dot segments and repeated slashes make no other path."""
    assert normal_path(path) == form


@pytest.mark.parametrize(
    "path",
    [
        b"/%2fadmin",
        b"/x%2Fadmin",
        b"/x/..%2fadmin",
        b"/x%5cadmin",
        b"/x\\admin",
        b"/%00",
        b"/x/..%c0%afadmin",
        b"/%C1%A1dmin",
        b"/%",
        b"/%6",
        b"/%zz",
        b"/x//../admin",
        b"/a//b/../../admin",
        b"/x/..;/admin",
        b"/x/.;a/admin",
    ],
)
def test_what_servers_do_not_agree_on_has_no_form(path: bytes) -> None:
    """A path that is one thing here and another there is not judged at all."""
    assert normal_path(path) is None


def test_encoded_slashes_by_choice() -> None:
    """They can be kept or taken for slashes."""
    assert normal_path(b"/a%2fb%5cc\\d", encoded="keep") == b"/a%2Fb%5Cc\\d"
    assert normal_path(b"/x%2f..%5cadmin", encoded="decode") == b"/admin"


def test_slashes_can_be_kept() -> None:
    """Without merging, an empty segment is one."""
    assert normal_path(b"//a//b/", merge_slashes=False) == b"//a//b/"


def test_parameters_can_be_left_out() -> None:
    """For servers that do not see them."""
    assert normal_path(b"/admin;x=1/a;b", strip_parameters=True) == b"/admin/a"


_PIECES = st.lists(
    st.sampled_from(
        [b"/", b"//", b".", b"..", b"a", b"%61", b"%2e", b"%2f", b"%5C", b"\\", b";", b"%25", b"%"]
    ),
    max_size=12,
)


@given(_PIECES, st.booleans(), st.sampled_from(["refuse", "keep", "decode"]), st.booleans())
def test_a_normal_form_stays(
    pieces: list[bytes], merge: bool, encoded: Encoded, strip: bool
) -> None:
    """A form that is there is its own form, absolute, and holds no dot segment."""

    def form(path: bytes) -> bytes | None:
        return normal_path(path, merge_slashes=merge, encoded=encoded, strip_parameters=strip)

    found = form(b"/" + b"".join(pieces))
    if found is not None:
        assert found[:1] == b"/"
        assert not {b".", b".."} & set(found.split(b"/"))
        assert not merge or b"//" not in found
        assert form(found) == found


@pytest.mark.parametrize("path", [b"/a%e0%80%af..", b"/%E0%80%AEadmin", b"/%f0%80%80%afadmin"])
def test_overlong_forms_have_no_normal_form(path: bytes) -> None:
    """UTF-8 forbids them and some servers decode them; what UTF-8 allows is left alone."""
    assert normal_path(path) is None
    assert normal_path(b"/%e0%a4%85%f0%9f%98%80") == b"/%E0%A4%85%F0%9F%98%80"
