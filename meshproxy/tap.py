"""
``twistd meshproxy``: the command line, and the service that it asks for.

Laws:

- The configuration is read and judged while options are parsed, before anything else happens: a
  bad one prints every error that it has and ends the process with status 1, nothing bound.
- :func:`makeService` opens nothing: twistd calls it before it daemonizes and before privileges
  drop. Sockets are bound in ``privilegedStartService``.
- Importing this module never imports a reactor. :meth:`Options.postOptions` installs meshproxy's
  own on Linux if there is none yet; twistd's ``--reactor`` comes first and wins.
- What goes wrong at the user's hand is one clear line on standard error, never a traceback.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from twisted.application import service
from twisted.python import usage

import twisted
from meshproxy import __version__, config, plugins, reference
from meshproxy.errors import ConfigError, MeshproxyError, PluginError, Problem
from meshproxy.interfaces import IFilterFactory

if TYPE_CHECKING:
    from twisted.application.service import IService

__all__ = ["Options", "makeService"]

_COMMAND_LINE = "command line"


class Options(usage.Options):
    """The options of ``twistd meshproxy``."""

    synopsis = "[--config FILE | --http LISTEN=UPSTREAM ... --tcp LISTEN=UPSTREAM ...]"

    longdesc = (
        "Without --config, --http or --tcp, a demonstration mesh runs on loopback and prints what "
        "to try. Examples: 'twistd -n meshproxy --config meshproxy.yaml', "
        "'twistd -n meshproxy --http :8080=127.0.0.1:9000 --tcp :5432=127.0.0.1:15432', "
        "'twistd meshproxy --make-certs DIR localhost *.example.test client:jo'."
    )

    optParameters: ClassVar[list[list[str | None]]] = [
        ["config", "c", None, "Run the configuration in this file (YAML)."],
        ["help-filter", None, None, "Show the named filter and its options, and exit."],
        [
            "make-certs",
            None,
            None,
            "Make certificates for the names that follow, by a development CA, and exit.",
        ],
    ]

    optFlags: ClassVar[list[list[str | None]]] = [
        [
            "check",
            None,
            "Say what is wrong or doubtful in the configuration, and exit (1: wrong).",
        ],
        ["schema", None, "Print the JSON Schema of configurations, for editors, and exit."],
        ["help-filters", None, "List the filters that are installed, and exit."],
    ]

    def __init__(self) -> None:
        super().__init__()
        #: The configuration to run; None for the demonstration.
        self.loaded: config.Loaded | None = None
        self._short: list[tuple[str, str]] = []
        self._words: tuple[str, ...] = ()

    def opt_http(self, value: str) -> None:
        """Proxy HTTP without a file, as in :8080=127.0.0.1:9000. May be repeated."""
        self._short.append(("http", value))

    def opt_tcp(self, value: str) -> None:
        """Proxy TCP without a file, as in :5432=127.0.0.1:15432. May be repeated."""
        self._short.append(("tcp", value))

    def opt_version(self) -> NoReturn:
        """Print the versions of meshproxy, Twisted and Python, and exit."""
        print(
            f"meshproxy {__version__} "
            f"(Twisted {twisted.__version__}, Python {platform.python_version()})"
        )
        raise SystemExit(0)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse; a wrong option is one line and status 1, where twistd would print all its help."""
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            _fail(f"{error}; 'twistd meshproxy --help' lists the options")

    def parseArgs(self, *words: str) -> None:
        """
        Refuse words that are no option, but for the names after ``--make-certs``: a forgotten
        ``--config`` would run something else.
        """
        self._words = words
        if words and self["make-certs"] is None:
            raise usage.UsageError(f"unexpected '{words[0]}' (a file is given with --config)")

    def postOptions(self) -> None:
        """Answer the questions and exit, or load the configuration and install the reactor."""
        if self["schema"] or self["help-filters"] or self["help-filter"] is not None:
            print(self._answered())
            raise SystemExit(0)
        if self["make-certs"] is not None:
            _make_certs(self["make-certs"], self._words)
        if self["config"] is not None and self._short:
            raise usage.UsageError("--config cannot be combined with --http or --tcp")
        if self["config"] is not None:
            self.loaded = _load(lambda: _warned(config.load_file(self["config"])))
        elif self._short:
            self.loaded = _from_short_form(self._short)
        if self["check"]:
            self._check()
        if "twisted.internet.reactor" not in sys.modules:
            _install_reactor()

    def _answered(self) -> str:
        """The answer to a question about what is installed, in the directories of a file too."""
        if self["config"] is not None:
            _load(lambda: config.search_plugins(self["config"]))
        if self["schema"]:
            return json.dumps(config.schema(), indent=2)
        found = plugins.find(IFilterFactory, fresh=True)
        if self["help-filters"]:
            return _filters(found)
        return _filter(found, self["help-filter"])

    def _check(self) -> NoReturn:
        if self.loaded is None:
            raise usage.UsageError("--check needs a configuration: --config FILE")
        _compiled(self.loaded)
        print(f"{self.loaded.filename}: the configuration is good")
        raise SystemExit(0)


def makeService(options: Options) -> IService:
    """The service to run; nothing is opened yet. Exits with status 1 for a bad configuration."""
    top = _Top()
    if options.loaded is None:
        from meshproxy.demo import demonstration

        demonstration().setServiceParent(top)
    else:
        from meshproxy.service import make_service

        loaded = options.loaded
        _load(lambda: make_service(loaded)).setServiceParent(top)
    return top


class _Top(service.MultiService):
    """Says in one line why it cannot start, and leaves the rest to twistd."""

    def privilegedStartService(self) -> None:
        with _in_one_line():
            super().privilegedStartService()

    def startService(self) -> None:
        with _in_one_line():
            super().startService()


@contextmanager
def _in_one_line() -> Iterator[None]:
    """Have a MeshproxyError that ends the process shown without its traceback."""
    try:
        yield
    except MeshproxyError:
        # twistd removes its pid file, tells a waiting parent and lets the exception end the
        # process with status 1; all that is wrong with it is that a traceback would be shown.
        before = sys.excepthook

        def hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
            if isinstance(error, MeshproxyError):
                # twistd has put its log in the place of sys.stderr by now.
                print(f"meshproxy: {error}", file=sys.__stderr__, flush=True)
            else:
                before(kind, error, trace)

        sys.excepthook = hook
        raise


def _say(message: str) -> None:
    print(f"meshproxy: {message}", file=sys.stderr)


def _fail(message: str) -> NoReturn:
    _say(message)
    raise SystemExit(1)


def _load(load: Callable[[], Any]) -> Any:
    """The result of ``load``; a ConfigError is printed, all of it, and ends the process."""
    try:
        return load()
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        raise SystemExit(1) from None


def _make_certs(directory: str, names: Sequence[str]) -> NoReturn:
    """Make certificates, and say what was written; nothing else of TLS is loaded before."""
    if not directory:
        raise usage.UsageError("--make-certs needs a directory")
    from meshproxy.tls import make_certs

    try:
        print(make_certs.told(make_certs.make(Path(directory), names)))
    except make_certs.MakeCertsError as error:
        _fail(f"--make-certs: {error}")
    raise SystemExit(0)


def _warned(loaded: config.Loaded) -> config.Loaded:
    for warning in loaded.warnings:
        print(warning, file=sys.stderr)
    return loaded


def _compiled(loaded: config.Loaded) -> None:
    """Make the service as a run would and throw it away, for what only the rooms can judge."""
    from twisted.internet.task import Clock

    from meshproxy.service import make_service

    _load(lambda: make_service(loaded, reactor=Clock()))


def _from_short_form(asked: Sequence[tuple[str, str]]) -> config.Loaded:
    """
    The configuration that ``--http`` and ``--tcp`` stand for; problems are told by the option.

    It goes through the same reader as a file: one line of YAML for each listener and cluster.
    """
    listeners, clusters = ["listeners:"], ["clusters:"]
    for number, (kind, value) in enumerate(asked, 1):
        listen, equals, upstream = value.rpartition("=")
        if not equals or not listen or not upstream:
            _fail(f"--{kind} {value}: LISTEN=UPSTREAM is expected, as in :8080=127.0.0.1:9000")
        name = f"{kind}-{number}"
        room = {"routes": [{"to": name}]} if kind == "http" else {"to": name}
        listeners.append(f"  {name}: {json.dumps({'listen': listen, kind: room})}")
        clusters.append(f"  {name}: {json.dumps({'endpoints': [upstream]})}")
    text = "\n".join((*listeners, *clusters)) + "\n"
    try:
        return _warned(config.load(text, _COMMAND_LINE))
    except ConfigError as error:
        for problem in error.problems:
            _say(_of_option(problem, asked))
        raise SystemExit(1) from None


def _of_option(problem: Problem, asked: Sequence[tuple[str, str]]) -> str:
    """The problem without its place in a text that the user never saw."""
    kind, value = asked[(problem.line - 2) % (len(asked) + 1)]
    message = f"--{kind} {value}: {problem.message}"
    return f"{message}; did you mean '{problem.suggestion}'?" if problem.suggestion else message


def _filters(found: plugins.Plugins) -> str:
    """What ``--help-filters`` prints: name, kinds and help, or why one cannot be used."""
    rows = []
    for name, held in found.by_name.items():
        for one in held:
            try:
                factory = one.verified()
            except PluginError as error:
                rows.append((name, "-", str(error)))
            else:
                rows.append((name, ",".join(factory.kinds), factory.help))
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    lines = [
        f"{name:<{widths[0]}}  {kinds:<{widths[1]}}  {text}".rstrip() for name, kinds, text in rows
    ]
    if not lines:
        lines = ["no filters are installed"]
    return "\n".join((*lines, *found.refused.values(), *found.broken))


def _filter(found: plugins.Plugins, name: str) -> str:
    """What ``--help-filter NAME`` prints; exits with status 1 where there is none to use."""
    shown: list[str] = []
    unusable: list[str] = []
    for one in found.by_name.get(name, ()):
        try:
            shown.append(_described(one.verified()))
        except PluginError as error:
            unusable.append(str(error))
    if not shown:
        if not unusable:
            try:
                found.get(name)
            except PluginError as error:
                unusable.append(str(error))
        _fail("\n".join(unusable))
    return "\n\n".join((*shown, *unusable))


def _described(factory: Any) -> str:
    """A filter, where it can be used, and its options."""
    lines = [f"{factory.name} ({', '.join(factory.kinds)}): {factory.help}"]
    if {*factory.kinds} <= {"udp", "dns"}:
        lines.append("No listener speaks what it is for yet.")
    if factory.options is None or not factory.options.model_fields:
        return "\n".join((*lines, "", "It has no options."))
    return "\n".join((*lines, "", *reference.lines(factory.options)))


def _install_reactor() -> None:
    """Meshproxy's reactor, where the system has epoll; elsewhere Twisted chooses."""
    if not sys.platform.startswith("linux"):
        return
    from meshproxy.net.reactor import install

    install()
