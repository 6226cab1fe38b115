"""The exposition, read back by prometheus_client's own parsers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from meshproxy.observe.prometheus import STEP, chunks, exposition
from meshproxy.observe.registry import Registry

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"

LABEL = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=20)


def read(registry: Registry, accept: str | None) -> dict[tuple[str, tuple[str, ...]], float]:
    """The samples of an exposition, by name and label values."""
    body, kind = exposition(registry, accept)
    parse = parse_openmetrics if kind.startswith(b"application/openmetrics") else parse_text
    return {
        (sample.name, tuple(text for _, text in sorted(sample.labels.items()))): sample.value
        for family in parse(body.decode())
        for sample in family.samples
    }


@pytest.mark.parametrize("accept", [None, "", "*/*", OPENMETRICS, "text/plain;version=1.0.0"])
def test_every_kind_is_read_back(accept: str | None) -> None:
    """Counters, gauges, samples and cumulative buckets, in either format."""
    registry = Registry()
    registry.values[registry.counter("a_total", "A", {"x": "1"})] += 5
    registry.values[registry.gauge("b", "B", {})] -= 2
    registry.sample("c", "C", {}, lambda: 1.5)
    histogram = registry.histogram("d_seconds", "D", (0.1, 1.0), {"x": "1"})
    for value in (0.05, 0.1, 0.5, 7.0):
        histogram.observe(registry.values, value)
    samples = read(registry, accept)
    assert samples["a_total", ("1",)] == 5
    assert samples["b", ()] == -2
    assert samples["c", ()] == 1.5
    buckets = [samples["d_seconds_bucket", (bound, "1")] for bound in ("0.1", "1.0", "+Inf")]
    assert buckets == [2, 3, 4]
    assert samples["d_seconds_count", ("1",)] == 4
    assert samples["d_seconds_sum", ("1",)] == pytest.approx(7.65)
    assert ("process_open_fds", ()) in samples


@given(st.lists(LABEL, min_size=1, max_size=4, unique=True), st.text(max_size=20))
def test_no_label_breaks_the_format(values: list[str], help_: str) -> None:
    """Label values come back as they were, whatever is in them."""
    registry = Registry()
    for number, value in enumerate(values):
        registry.values[registry.counter("a_total", help_.replace("\r", ""), {"x": value})] = number
    samples = read(registry, None)
    assert [samples["a_total", (value,)] for value in values] == list(range(len(values)))


@pytest.mark.parametrize("accept", [None, OPENMETRICS])
def test_steps_make_one_exposition(accept: str | None) -> None:
    """A family longer than a step has one HELP and one TYPE, and every series; one EOF ends all."""
    registry = Registry()
    count = 2 * STEP + 1
    for number in range(count):
        registry.values[registry.counter("a_total", "A", {"x": str(number)})] = number
    steps, _ = chunks(registry, accept)
    assert sum(1 for _ in steps) > 3
    body, _ = exposition(registry, accept)
    assert body.count(b"# TYPE a") == body.count(b"# HELP a") == 1
    assert body.count(b"# EOF") == (1 if accept else 0)
    samples = read(registry, accept)
    assert [samples["a_total", (str(number),)] for number in range(count)] == list(range(count))


def test_one_moment() -> None:
    """What is counted, and what is registered, after the first step is not in the answer."""
    registry = Registry()
    slots = [registry.gauge("a", "A", {"x": str(number)}) for number in range(STEP + 1)]
    steps, _ = chunks(registry, None)
    body = next(steps)
    registry.values[slots[-1]] = 9
    registry.gauge("b", "B", {})
    body += b"".join(steps)
    assert b'a{x="%d"} 0.0\n' % STEP in body
    assert b"\nb " not in body


def test_the_process_is_described_once() -> None:
    """Two registries do not share prometheus_client's global one, nor double its collectors."""
    for _ in range(2):
        body, _ = exposition(Registry(), None)
        assert body.count(b"# TYPE process_open_fds ") == 1
        assert body.count(b"# TYPE python_info ") == 1


@given(
    st.text(max_size=40)
    | st.sampled_from(["text/plain", "application/openmetrics-text"]).flatmap(
        lambda kind: st.text(max_size=12).map(lambda rest: f"{kind};version={rest}")
    )
)
def test_any_accept_is_answered(accept: str) -> None:
    """A header that means nothing gets the plain text."""
    body, kind = exposition(Registry(), accept)
    assert body
    assert kind
