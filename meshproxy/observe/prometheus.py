"""
The registry in the exposition formats of Prometheus, written by prometheus_client.

The laws it keeps:

- All numbers of one answer are of one moment, however long the writing takes.
- The process and the interpreter are described once, after our own numbers.
- The writing can be taken in steps of at most :data:`STEP` series, so that a scrape of very many
  routes need not hold up the traffic: :func:`chunks`, of which :func:`exposition` is the sum.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from meshproxy.observe.registry import Family, Registry

#: Series written in one step: a few milliseconds for histograms of sixteen buckets.
STEP = 25

_EOF = b"# EOF\n"


class _One(Collector):
    """A collector of metrics that are there already."""

    def __init__(self, *found: Metric) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        return self._found


def metrics(registry: Registry, step: int = 1 << 62) -> Iterator[tuple[Metric, bool]]:
    """
    The families as metrics of at most ``step`` series; True says that a family goes on.

    All are of the moment in which the first one is asked for.
    """
    registry.refresh()
    values = registry.values[:]
    for family in list(registry.families):
        series = list(family.series.items())
        for start in range(0, len(series), step):
            yield _metric(family, series[start : start + step], values), start > 0


def _metric(
    family: Family, series: Sequence[tuple[tuple[str, ...], int]], values: Sequence[float]
) -> Metric:
    metric = Metric(family.name.removesuffix("_total"), family.help, family.kind)
    bounds = [*map(floatToGoString, family.bounds), "+Inf"]
    for key, slot in series:
        if slot + family.width > len(values):
            continue  # asked for since the numbers were read
        labels = dict(zip(family.label_names, key, strict=True))
        if family.kind != "histogram":
            metric.add_sample(family.name, labels, values[slot])
            continue
        counts = list(itertools.accumulate(values[slot : slot + len(bounds)]))
        for bound, count in zip(bounds, counts, strict=True):
            metric.add_sample(f"{family.name}_bucket", {**labels, "le": bound}, count)
        metric.add_sample(f"{family.name}_count", labels, counts[-1])
        metric.add_sample(f"{family.name}_sum", labels, values[slot + len(bounds)])
    return metric


def chunks(registry: Registry, accept: str | None) -> tuple[Iterator[bytes], bytes]:
    """The body in steps, and its content type, for a request's ``Accept``."""
    try:
        encode, content_type = choose_encoder(accept or "")
        return _chunks(registry, encode), content_type.encode("ascii")
    except (TypeError, ValueError):
        # The library trips over versions that are no numbers: such a client gets plain text.
        encode, content_type = choose_encoder("")
        return _chunks(registry, encode), content_type.encode("ascii")


def _chunks(registry: Registry, encode: Callable[[Collector], bytes]) -> Iterator[bytes]:
    ends = b""
    for metric, goes_on in metrics(registry, STEP):
        text = encode(_One(metric))
        if text.endswith(_EOF):
            text, ends = text[: -len(_EOF)], _EOF
        if goes_on:
            # HELP and TYPE stand once, before the first sample of a family.
            while text.startswith(b"#"):
                text = text.partition(b"\n")[2]
        yield text
    own = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=own)
    PlatformCollector(registry=own)
    GCCollector(registry=own)
    text = encode(own)
    yield text[: -len(_EOF)] if ends else text
    if ends:
        yield ends


def exposition(registry: Registry, accept: str | None) -> tuple[bytes, bytes]:
    """
    The body and its content type: OpenMetrics or text 0.0.4, as ``Accept`` asks.

    ``accept`` is the header's value, or None when there was none.
    """
    body, content_type = chunks(registry, accept)
    return b"".join(body), content_type
