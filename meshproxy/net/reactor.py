"""
An epoll reactor that calls its descriptors directly.

The law it keeps:

- A level-triggered descriptor (``addReader`` / ``addWriter``) behaves as on the stock
  ``EPollReactor``; the only difference is that no logging context is entered around each
  event. An exception from ``doRead`` / ``doWrite`` is logged and costs that descriptor alone.
- A descriptor that an earlier event of the same batch closed is skipped, even when its number
  has been given to a new socket meanwhile: what was true of the old one is not told of the new.
- A *watched* descriptor is registered once, edge-triggered, for reading, writing and the
  peer's half-close, and never modified: ``watcher.ready(events)`` is called with the epoll
  event mask. The watcher must read and write until the kernel says EAGAIN (or remember that
  it did not). An exception from ``ready`` is logged and answered with ``watcher.abort()``.
- What was given to ``hold`` is released before the reactor waits again, once, in order.
- One poll takes at most :data:`BATCH` events, so that timers are never starved.
"""

from __future__ import annotations

import errno
from select import EPOLLET, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP
from typing import Any, Protocol

from twisted.internet.epollreactor import EPollReactor
from twisted.python import log

#: The most events that one poll returns. Stock Twisted asks for as many as there are
#: descriptors, and CPython allocates that many event structures for every call.
BATCH = 256

# PRI too: a read stops short at a byte of urgent data, and what is behind it has no edge of
# its own.
_EDGE = EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP | EPOLLET


class Watcher(Protocol):
    """What :meth:`MeshReactor.watch` calls."""

    def ready(self, events: int, /) -> None:
        """The descriptor has new epoll ``events`` (EPOLLIN, EPOLLOUT, EPOLLRDHUP, …)."""

    def abort(self) -> None:
        """``ready`` raised: give the descriptor up. Must not raise."""


class Holder(Protocol):
    """What :attr:`MeshReactor.hold` takes."""

    def release(self) -> None:
        """Send what was held back."""


class MeshReactor(EPollReactor):
    """The stock epoll reactor with direct dispatch and edge-triggered watching."""

    def __init__(self) -> None:
        self._watchers: dict[int, Watcher] = {}
        # Descriptors that left the reactor since the poll.
        self._left: set[int] = set()
        self._held: list[Holder] = []
        #: ``hold(transport)``: call ``transport.release()`` when this turn's events are dealt
        #: with, and before waiting for new ones.
        self.hold = self._held.append
        super().__init__()

    def watch(self, fd: int, watcher: Watcher) -> None:
        """
        Register the descriptor ``fd`` edge-triggered.

        Events that are true already are delivered at the next poll.
        Raises ``OSError`` when the kernel refuses (EEXIST: watched or added already).
        """
        self._poller.register(fd, _EDGE)
        self._watchers[fd] = watcher

    def unwatch(self, fd: int) -> None:
        """
        Forget ``fd``; call it before closing the descriptor.

        A descriptor that is not watched (any more) is ignored, so that both ends of a
        teardown may call it.
        """
        if self._watchers.pop(fd, None) is not None:
            self._left.add(fd)
            try:
                self._poller.unregister(fd)
            except OSError as error:
                # Closed by somebody already: the kernel forgot it with the last close.
                if error.errno not in (errno.ENOENT, errno.EBADF):
                    raise

    def take_over(self, old: Any, new: Any) -> None:
        """
        ``new`` is the reader of the descriptor that ``old`` may be the reader of, from now on.

        Where that is so, the kernel need not hear of it.
        """
        fd = new.fileno()
        if fd in self._reads and self._selectables.get(fd) is old:
            self._selectables[fd] = new
        else:
            self.removeReader(old)
            self.addReader(new)

    def forget(self, xer: Any) -> None:
        """
        As ``removeReader`` and ``removeWriter``, for a descriptor that is closed before anything
        else happens: the close unregisters it.
        """
        fd = xer.fileno()
        self._reads.discard(fd)
        self._writes.discard(fd)
        if self._selectables.pop(fd, None) is not None:
            self._left.add(fd)

    def forget_closed(self, fd: int) -> None:
        """As :meth:`unwatch`, for a descriptor about to be closed: the close unregisters it."""
        self._watchers.pop(fd, None)
        self._left.add(fd)

    def _remove(
        self,
        xer: Any,
        primary: set[int],
        other: set[int],
        selectables: dict[int, Any],
        event: int,
        antievent: int,
    ) -> None:
        fd = xer.fileno()
        super()._remove(xer, primary, other, selectables, event, antievent)
        if fd not in other:
            # If it comes back in this batch, level-triggered events come again with the next.
            self._left.add(fd)

    def doPoll(self, timeout: float | None) -> None:
        selectables: dict[int, Any] = self._selectables
        watchers = self._watchers
        held = self._held
        if held:
            self._release()
        try:
            events = self._poller.poll(-1 if timeout is None else timeout, BATCH)
        except InterruptedError:
            return
        left = self._left
        left.clear()
        for fd, event in events:
            if fd in left:
                continue
            selectable = selectables.get(fd)
            if selectable is not None:
                if event == EPOLLIN:
                    try:
                        why = selectable.doRead()
                    except BaseException as error:
                        log.err()
                        why = error
                    if why:
                        try:
                            self._disconnectSelectable(selectable, why, True)
                        except Exception:
                            # A connectionLost that raises must not cost the batch's other
                            # events: edge-triggered ones never come again.
                            log.err()
                else:
                    try:
                        self._doReadOrWrite(selectable, fd, event)
                    except Exception:
                        # Only a connectionLost that raises comes here.
                        log.err()
                continue
            watcher = watchers.get(fd)
            if watcher is not None:
                try:
                    watcher.ready(event)
                except Exception:
                    log.err()
                    watcher.abort()
        if held:
            self._release()

    def _release(self) -> None:
        """Let the transports send what they hold; whoever joins meanwhile is served too."""
        held = self._held
        for transport in held:
            try:
                transport.release()
            except Exception:
                log.err()
        held.clear()

    # ReactorBase's main loop looks the name up on the instance.
    doIteration = doPoll


def take_over(reactor: Any, old: Any, new: Any) -> None:
    """As :meth:`MeshReactor.take_over`, on any reactor."""
    swap = getattr(reactor, "take_over", None)
    if swap is None:
        reactor.removeReader(old)
        reactor.addReader(new)
    else:
        swap(old, new)


def install() -> MeshReactor:
    """
    Make a :class:`MeshReactor` the global reactor.

    Raises ``twisted.internet.error.ReactorAlreadyInstalledError`` when there is one.
    """
    from twisted.internet.main import installReactor

    reactor = MeshReactor()
    installReactor(reactor)
    return reactor
