"""What hosts and routes do with the filters that they inherit.

Law: as all that lies between sections far apart, this is judged by the document and not by the
model, so that it is found even where values elsewhere are wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from meshproxy.config.place import Path
from meshproxy.config.reader import Node, plain
from meshproxy.config.unfit import closest, quoted

__all__ = ["inherited_problems"]


def inherited_problems(root: Node) -> Iterator[tuple[int, int, Path, str, str | None]]:
    """Yield what is wrong between the filters of a listener, its hosts and their routes.

    Each is a line, a column, a path, a message and what was probably meant.
    """
    listeners = root.entries.get("listeners")
    for name, listener in listeners.node.entries.items() if listeners is not None else ():
        http = listener.node.entries.get("http")
        if http is None:
            continue
        here: Path = ("listeners", name, "http")
        of_listener = {label: plugin for _, _, label, plugin in _labels(http.node) if plugin}
        tables = [(here, http.node, of_listener)]
        hosts = http.node.entries.get("hosts")
        for host, entry in hosts.node.entries.items() if hosts is not None else ():
            path = (*here, "hosts", host)
            yield from _between(entry.node, path, of_listener)
            tables.append((path, entry.node, _inherited(entry.node, of_listener)))
        for path, node, held in tables:
            routes = node.entries.get("routes")
            for index, route in enumerate(routes.node.items if routes is not None else ()):
                yield from _between(route, (*path, "routes", index), held)


def _between(
    section: Node, path: Path, held: Mapping[str, str]
) -> Iterator[tuple[int, int, Path, str, str | None]]:
    for index, node, label, plugin in _labels(section):
        at: Path = (*path, "filters", index)
        if not plugin and label not in held:
            entry = node.entries[label]
            message = f"no filter {quoted(label)} is inherited here, so it cannot be switched off"
            yield entry.line, entry.column, (*at, label), message, closest(label, held)
        elif plugin and held.get(label, plugin) != plugin:
            message = (
                f"what is called {quoted(label)} is a filter {quoted(held[label])} where it is "
                "inherited from; give this one another name with 'as'"
            )
            yield node.line, node.column, at, message, None


def _inherited(section: Node, held: Mapping[str, str]) -> dict[str, str]:
    labels = dict(held)
    for _, _, label, plugin in _labels(section):
        if plugin:
            labels[label] = plugin
        else:
            labels.pop(label, None)
    return labels


def _labels(section: Node) -> Iterator[tuple[int, Node, str, str]]:
    """Yield the index, node, label and plugin of a section's items; "" for one switched off."""
    entry = section.entries.get("filters")
    for index, node in enumerate(entry.node.items if entry is not None else ()):
        raw = plain(node)
        if isinstance(raw, str):
            yield index, node, raw, raw
        elif isinstance(raw, dict):
            names = [key for key in raw if key != "as"]
            label = raw.get("as", names[0] if names else None)
            if len(names) == 1 and isinstance(label, str):
                off = raw[names[0]] is False
                yield index, node, names[0] if off else label, "" if off else names[0]
