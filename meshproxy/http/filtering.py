"""
What is kept for an exchange once a filter wants more than to look at a head and go on.

The law it keeps: it is made when somebody needs it, and ends with the exchange: whatever ends that
gives up what filters are waited for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshproxy.http.outcome import FILTERED, ROUTING

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from meshproxy.http.chain import Chain
    from meshproxy.http.exchange import Exchange
    from meshproxy.http.inflow import Inflow
    from meshproxy.http.message import Response
    from meshproxy.http.outflow import Outflow
    from meshproxy.http.passage import Passage
    from meshproxy.http.replies import Reply


class Filtering:
    """
    What is kept for an exchange whose filters keep something.

    ``passed``: how many filters of the chain the request has passed when it was answered on the
    way; -1: all. ``given``: an answer given inside a call, to be taken when it returns.
    """

    __slots__ = (
        "body",
        "closing",
        "delimited",
        "given",
        "inflow",
        "metadata",
        "next_chain",
        "notes",
        "outflow",
        "passed",
        "read",
        "reading",
        "skipped_requests",
        "skipped_responses",
    )

    def __init__(self) -> None:
        self.metadata: dict[str, Any] = {}
        self.notes: dict[Any, Any] = {}
        self.inflow: Inflow | None = None
        self.outflow: Outflow | None = None
        self.passed = -1
        self.skipped_requests = 0
        self.skipped_responses = 0
        self.given: Response | None = None
        self.next_chain: Chain | None = None
        # Asked for inside the first call, when there is no flow yet.
        self.body: bytes | None = None
        self.reading: tuple[Deferred[bytes], int] | None = None
        #: What the reader who asked so waits for.
        self.read: Deferred[bytes] | None = None
        #: What filters wait for is being given up: what they say to that is not heard.
        self.closing = False
        #: Whether the end of the endpoint's response can be told from that of its connection.
        self.delimited = True

    def interrupt(self, exchange: Exchange) -> None:
        """Something else than a filter answers: give up what is under way in the chain."""
        inflow, outflow = self.inflow, self.outflow
        self.closing = True
        self.forget()
        if inflow is not None and not inflow.over:
            if exchange.state == ROUTING:
                self.passed = inflow.position
            inflow.stop()
        if outflow is not None and not outflow.over:
            if exchange.state == FILTERED:
                self.passed = outflow.unanswered(outflow.position)
            outflow.stop()
        self.closing = False

    def forget(self) -> None:
        """What a filter asked for in a call that came to nothing is not asked for any more."""
        self.given = self.next_chain = self.body = None
        reading, self.reading = self.reading, None
        if reading is not None:
            reading[0].cancel()

    def stop(self) -> None:
        """The exchange is over."""
        self.forget()
        if self.inflow is not None:
            self.inflow.stop()
        if self.outflow is not None:
            self.outflow.stop()

    @property
    def waiting(self) -> Passage | None:
        """The flow in which a filter is being waited for."""
        for flow in (self.inflow, self.outflow):
            if flow is not None and not flow.over and flow.waited_for >= 0:
                return flow
        return None

    @property
    def holding_up(self) -> Passage | None:
        """The same, but for one whose filter waits for no more than the rest of the body."""
        flow = self.waiting
        return None if flow is None or flow.wanting else flow

    def blame(self, reply: Reply) -> Reply:
        """The reply for time that ran out, with the name of the filter that used it up."""
        flow = self.holding_up
        if flow is None:
            return reply
        label = flow.chain.fitted[flow.waited_for].label_bytes
        return reply._replace(details=b"filter_timeout[%b]" % label)
