"""
meshproxy: a proxy for HTTP and TCP, run as ``twistd meshproxy``.

How a byte flows through the house::

    listener -> codec -> filters -> route -> cluster -> endpoint -> pool -> upstream
                         and the answer back the same way, last room first

1. ``tap`` reads the command line and ``config`` turns a text into frozen values, or into every
   error that the text has, each with its line. Nothing is open yet.
2. ``service`` compiles the values into small slotted objects, once: a tree of Twisted services,
   routers, clusters, slots for the counters. Nothing on the path of a byte reads the
   configuration again. Then it binds the listeners.
3. ``net`` moves bytes: the reactor, listening and connecting, transports that send at once, the
   timer wheel, and splice, by which the kernel moves what nobody wants to look at.
4. A TCP connection (``tcp``) is accepted, its reading stopped until ``upstream`` has chosen an
   endpoint and ``net`` has connected to it; from then on the two sockets are joined.
5. An HTTP request (``http``) is a stream of its own: the codec makes a head, body chunks and
   trailers out of bytes; the chain of filters looks at them, in order, and may change or answer
   them (``filters`` has ours, ``plugins`` finds yours); the router finds the route; its cluster
   names an endpoint and the endpoint's pool a connection; the answer comes back through the same
   exchange. A slow side pauses the other, so that nothing is gathered in between.
6. ``observe`` counts each step in slots that cost nanoseconds and writes one access record a
   request or connection; ``admin`` shows both, on loopback.

Imports go down the floors only: ``tap`` above ``service`` and ``admin``, above ``filters``, which
know ``api`` alone, above the protocol rooms (``http`` and ``tcp``, which never import each other),
above ``upstream``, above ``config``, ``net`` and ``observe``, above ``plugins``, above
``interfaces`` and ``errors``. A test holds it.
"""

__version__ = "0.1.0"
