from example_filters.line_limit import LineLimit

from meshproxy.testing import drive_connection


def test_lines_that_are_short_enough_pass() -> None:
    driven = drive_connection(LineLimit(LineLimit.Options(longest=5)), received=[b"12345\n1\n"])
    driven.answer(b"anything, however long\n")
    assert driven.upstream == b"12345\n1\n"
    assert driven.client_got == b"anything, however long\n"


def test_a_line_that_is_too_long_ends_the_connection() -> None:
    driven = drive_connection(LineLimit(LineLimit.Options(longest=5)), received=[b"1\n123456"])
    assert driven.upstream == b""
    assert driven.client_got == b"line too long\r\n"
    assert driven.ended
    assert driven.details == b"line_too_long"
    assert driven.counters["refused"] == 1


def test_a_line_that_comes_in_pieces() -> None:
    driven = drive_connection(LineLimit(LineLimit.Options(longest=5)))
    for piece in (b"1\n123", b"45", b"\n", b"12345"):
        driven.send(piece)
        assert not driven.ended
    driven.send(b"6")
    assert driven.ended
    assert driven.upstream == b"1\n12345\n12345"


def test_connections_do_not_know_of_each_other() -> None:
    limit = LineLimit(LineLimit.Options(longest=5))
    for _ in range(3):
        assert not drive_connection(limit, received=[b"1234"]).ended
