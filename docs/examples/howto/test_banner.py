from filters.banner import Banner

from meshproxy.testing import drive_connection


def test_a_client_is_greeted() -> None:
    banner = Banner(Banner.Options(text="welcome\n"))
    driven = drive_connection(banner, received=[b"one\ntwo\n"])
    assert driven.client_got == b"welcome\n"
    assert driven.upstream == b"one\ntwo\n"
    driven.answer(b"your password, please\n")
    assert driven.client_got == b"welcome\nyour ********, please\n"
    assert driven.counters["lines"] == 2


def test_an_unwanted_client_is_refused() -> None:
    banner = Banner(Banner.Options(text="welcome\n", refuse=["192.0.2.1"]))
    driven = drive_connection(banner, client=b"192.0.2.1:5000")
    assert driven.closed
    assert driven.client_got == b""
    assert driven.details == b"unwanted"
