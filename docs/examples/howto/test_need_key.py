import pytest
from filters.need_key import NeedKey

from meshproxy.testing import drive


@pytest.mark.parametrize("key", [b"wrong", b"", b"SESAME"])
def test_a_wrong_key_is_refused(key: bytes) -> None:
    need_key = NeedKey(NeedKey.Options(keys=["sesame"]))
    refused = drive(need_key, headers={b"x-api-key": key})
    assert (refused.status, refused.body) == (401, b"an API key is needed\n")
    assert refused.upstream is None  # no endpoint was asked
    assert refused.counters["refused"] == 1


def test_a_good_key_goes_on() -> None:
    need_key = NeedKey(NeedKey.Options(keys=["sesame"], header="X-Key"))
    driven = drive(need_key, target=b"/things", headers={b"x-key": b"sesame"})
    assert driven.status == 200
    assert driven.upstream.target == b"/things"
