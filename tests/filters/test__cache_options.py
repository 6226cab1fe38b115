"""What may be written of a cache."""

from __future__ import annotations

from typing import Any

import pytest

from meshproxy.filters._cache_options import Options


def test_nothing_has_to_be_written() -> None:
    """The defaults are those of RFC 9111: nothing stale, no cookies, nobody purges."""
    options = Options()
    assert (options.stale_while_revalidate, options.stale_if_error, options.lifetime) == (0, 0, 0)
    assert options.set_cookie == "pass"
    assert options.purge is None
    assert options.disk is None
    assert options.client_control
    assert options.cache_status == ""


def test_all_of_it() -> None:
    """Every option, as a configuration writes it."""
    options = Options.model_validate(
        {
            "memory": "1MiB",
            "max_entry": "64KiB",
            "variants": 4,
            "disk": {"directory": "cache", "size": "10MiB", "files": 100},
            "match": {"paths": [{"prefix": "/static/"}], "methods": ["GET"]},
            "key": {"ignore_query": ["utm_source"], "sort_query": True},
            "bypass": {"headers": ["X-Debug"], "cookies": ["session"]},
            "client_control": False,
            "heuristic": "1h",
            "lifetime": "5s",
            "stale_while_revalidate": "1m",
            "stale_if_error": "1h",
            "background": 4,
            "set_cookie": "strip",
            "collapse": {"waiters": 10, "wait": "2s", "apart": "1m"},
            "purge": {"networks": ["10.0.0.0/8", "unix"]},
            "cache_status": "edge",
        }
    )
    assert options.memory == 1 << 20
    assert options.bypass.headers == ["x-debug"]
    assert options.collapse.wait == 2.0


@pytest.mark.parametrize("status", ["", "edge", "edge.example:80", "*x"])
def test_names_for_cache_status(status: str) -> None:
    """RFC 9211 and RFC 8941, 3.3.4: a token."""
    assert Options(cache_status=status).cache_status == status


@pytest.mark.parametrize(
    "given",
    [{"cache_status": 'a"b'}, {"cache_status": "a" * 65}, {"background": 0}, {"memory": -1}],
)
def test_what_is_refused(given: dict[str, Any]) -> None:
    """What could not work."""
    with pytest.raises(ValueError, match=next(iter(given))):
        Options.model_validate(given)


def test_every_option_is_described() -> None:
    """`--help-filter` and the page show them."""

    def models(model: Any) -> Any:
        yield model
        for field in model.model_fields.values():
            assert field.description, field
            for inner in getattr(field.annotation, "__args__", (field.annotation,)):
                if hasattr(inner, "model_fields"):
                    yield from models(inner)

    assert len(list(models(Options))) >= 6
