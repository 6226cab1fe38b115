"""Endpoints and clusters as the tests of upstream/ want them."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from twisted.internet.task import Clock

from meshproxy.config import Cluster as ClusterConfig
from meshproxy.net.wheel import TimerWheel
from meshproxy.observe.registry import Registry
from meshproxy.upstream.cluster import Cluster
from meshproxy.upstream.endpoint import Endpoint, EndpointSpec


def spec(number: int, weight: int = 1, **fields: Any) -> EndpointSpec:
    """What a source says of 127.0.0.1:number."""
    text = f"127.0.0.1:{number}"
    return EndpointSpec(text, socket.AF_INET, ("127.0.0.1", number), text, weight, **fields)


def endpoints(*weighing: int) -> list[Endpoint]:
    """One for each weight, at the ports 1, 2, ..."""
    return [Endpoint(spec(number, weight)) for number, weight in enumerate(weighing, 1)]


def cluster(
    specs: Sequence[EndpointSpec] | None = None,
    *,
    clock: Clock | None = None,
    registry: Registry | None = None,
    zone: str = "",
    **config: Any,
) -> Cluster:
    """
    A cluster with this configuration, in the words of YAML, and these endpoints.

    Without a clock time stands still.
    """
    config.setdefault("endpoints", ["127.0.0.1:65535"])
    made = Cluster(
        "api",
        ClusterConfig.model_validate(config),
        registry or Registry(),
        TimerWheel(clock or Clock()),
        zone,
    )
    if specs is not None:
        made.update(specs)
    return made
