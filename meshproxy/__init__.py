"""
meshproxy: a proxy for HTTP and TCP, run as ``twistd meshproxy``.

How a byte flows through the house::

    listener -> TLS -> codec -> filters -> route -> cluster -> endpoint -> pool -> TLS -> upstream
                                and the answer back the same way, last room first

1. ``tap`` reads the command line and ``config`` turns a text into frozen values, or into every
   error that the text has, each with its line. Nothing is open yet.
2. ``service`` compiles the values into small slotted objects, once: a tree of Twisted services,
   routers, clusters, slots for the counters. Nothing on the path of a byte reads the
   configuration again. Then it binds the listeners.
3. ``net`` moves bytes: the reactor, listening and connecting, transports that send at once, the
   timer wheel, and splice, by which the kernel moves what nobody wants to look at.
4. ``tls`` looks at what a client says first, without taking it: the name in it picks a
   certificate, or the cluster that the connection is passed through to, unread. What the rooms
   above get is a transport whose bytes are plain; ``certificates`` keeps the files fresh.
5. A TCP connection (``tcp``) is accepted, its reading stopped until ``upstream`` has chosen an
   endpoint and ``net`` has connected to it; from then on the two sockets are joined.
6. An HTTP request (``http``) is a stream of its own: the codec makes a head, body chunks and
   trailers out of bytes; the chain of filters looks at them, in order, and may change or answer
   them (``filters`` has ours, ``plugins`` finds yours); the router finds the route; its cluster
   names an endpoint and the endpoint's pool a connection; the answer comes back through the same
   exchange. A slow side pauses the other, so that nothing is gathered in between.
7. ``observe`` counts each step in slots that cost nanoseconds and writes one access record a
   request or connection; ``admin`` shows both, on loopback.

Imports go down the floors only: ``tap`` above ``service`` and ``admin``, above ``filters``, which
know ``api`` alone, above the protocol rooms (``http`` and ``tcp``, which never import each other),
above ``upstream``, above ``tls``, above ``config``, ``net`` and ``observe``, above ``plugins``,
above ``interfaces`` and ``errors``. A test holds it.
"""

__version__ = "0.1.0"
