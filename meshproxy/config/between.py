"""What must hold between sections that are far apart in the file.

Law: these look at the document, not at the model, so that they find everything even where values
elsewhere are wrong.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshproxy.config.examine import Examined
from meshproxy.config.inherited import inherited_problems
from meshproxy.config.place import Path, render
from meshproxy.config.reader import Node
from meshproxy.config.unfit import Unfit, closest, quoted
from meshproxy.config.values import parse_listen

__all__ = ["check_between"]

_PLAIN = ("round_robin", "random", "least_request")
"""Ways to balance that no hash decides."""


def check_between(root: Node, examined: Examined) -> None:
    """Add a problem for every unknown cluster, every address that is listened on twice, every
    route's `hash_by` that none of its clusters goes by, every cluster that agrees to HTTP/2 on
    connections for HTTP/1.1, and every filter that switches off or replaces what is not there.
    """
    _clusters(root, examined)
    _addresses(root, examined)
    _hashes(root, examined)
    _protocols(root, examined)
    for line, column, path, message, suggestion in inherited_problems(root):
        examined.problem(line, column, path, message, suggestion)


def _clusters(root: Node, examined: Examined) -> None:
    entry = root.entries.get("clusters")
    if entry is not None and entry.node.kind != "mapping":
        return  # reported already; nothing can be said of the names
    known = () if entry is None else tuple(entry.node.entries)
    for path, node in examined.references:
        for line, column, name, here in _named(node, path):
            if name not in known:
                why = "" if known else "; there are no 'clusters' at all"
                examined.problem(
                    line,
                    column,
                    here,
                    f"there is no cluster {quoted(name)}{why}",
                    closest(name, known),
                )


def _named(node: Node, path: Path) -> Iterator[tuple[int, int, str, Path]]:
    """Yield each cluster that `to` names, and where."""
    if node.kind == "scalar" and isinstance(node.scalar, str):
        yield node.line, node.column, node.scalar, path
    for name, entry in node.entries.items():
        yield entry.line, entry.column, name, (*path, name)


def _addresses(root: Node, examined: Examined) -> None:
    taken: dict[str, Path] = {}
    for path, node in _listening(root):
        try:
            address = parse_listen(node.scalar)
        except Unfit:
            continue  # the field itself reports it
        if address.family == 0 or (not address.path and address.port == 0):
            continue  # the system chooses, or only Twisted can tell
        earlier = taken.setdefault(address.text, path)
        if earlier is not path:
            examined.problem(
                node.line,
                node.column,
                path,
                f"{address} is taken by {render(earlier[:-1])} already",
            )


def _hashes(root: Node, examined: Examined) -> None:
    clusters = root.entries.get("clusters")
    for path, route in _routes(root):
        to, keys = route.entries.get("to"), route.entries.get("hash_by")
        if clusters is None or to is None or keys is None or keys.node.is_null:
            continue
        names = [name for _, _, name, _ in _named(to.node, path)]
        balances = [_balance(clusters.node, name) for name in names]
        if names and all(balance in _PLAIN for balance in balances):
            which = "'" + "', '".join(names) + "'"
            examined.problem(
                keys.line,
                keys.column,
                (*path, "hash_by"),
                f"'hash_by' does nothing here: {which} would need 'balance: ring_hash' or maglev",
            )


def _balance(clusters: Node, name: str) -> object:
    """Return how a cluster balances; None where that cannot be told."""
    entry = clusters.entries.get(name)
    if entry is None or entry.node.kind != "mapping":
        return None
    balance = entry.node.entries.get("balance")
    return "round_robin" if balance is None else balance.node.scalar


def _protocols(root: Node, examined: Examined) -> None:
    """Report `h2` of clusters that HTTP goes to, by routes, mirrors or health checks."""
    clusters = root.entries.get("clusters")
    if clusters is None:
        return
    spoken = set()
    for path, route in _routes(root):
        mirror = route.entries.get("mirror")
        held = [route.entries.get("to"), mirror]
        if mirror is not None:
            held.append(mirror.node.entries.get("to"))
        for entry in held:
            if entry is not None:
                spoken |= {name for _, _, name, _ in _named(entry.node, path)}
    for name, cluster in clusters.node.entries.items():
        check = cluster.node.entries.get("health_check")
        if name not in spoken and not (check is not None and "http" in check.node.entries):
            continue
        tls = cluster.node.entries.get("tls")
        alpn = tls.node.entries.get("alpn") if tls is not None else None
        for index, item in enumerate(alpn.node.items if alpn is not None else ()):
            if item.scalar == "h2":
                examined.problem(
                    item.line,
                    item.column,
                    ("clusters", name, "tls", "alpn", index),
                    "HTTP/2 is not there yet, and HTTP goes to this cluster; write "
                    "'alpn: [http/1.1]', or leave it out",
                )


def _routes(root: Node) -> Iterator[tuple[Path, Node]]:
    """Yield every route of every listener."""
    listeners = root.entries.get("listeners")
    for name, listener in listeners.node.entries.items() if listeners is not None else ():
        http = listener.node.entries.get("http")
        if http is None:
            continue
        tables: list[tuple[Path, Node]] = [(("listeners", name, "http"), http.node)]
        hosts = http.node.entries.get("hosts")
        for host, entry in hosts.node.entries.items() if hosts is not None else ():
            tables.append((("listeners", name, "http", "hosts", host), entry.node))
        for path, node in tables:
            routes = node.entries.get("routes")
            for index, route in enumerate(routes.node.items if routes is not None else ()):
                yield (*path, "routes", index), route


def _listening(root: Node) -> Iterator[tuple[Path, Node]]:
    """Yield every `listen` of the document that is a scalar."""
    places: list[tuple[Path, Node]] = []
    listeners = root.entries.get("listeners")
    if listeners is not None:
        for name, entry in listeners.node.entries.items():
            places.append((("listeners", name), entry.node))
    admin = root.entries.get("admin")
    if admin is not None:
        places.append((("admin",), admin.node))
    for path, node in places:
        listen = node.entries.get("listen")
        if listen is not None and listen.node.kind == "scalar":
            yield (*path, "listen"), listen.node
