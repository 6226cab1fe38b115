"""
How bytes move: the reactor, transports, listening, connecting, the timer wheel and splice.

A small library of its own. Everything here runs on any reactor that provides
``IReactorFDSet`` (epoll, poll, select, asyncio); on :class:`meshproxy.net.reactor.MeshReactor`
it runs at its full speed. It knows nothing of configuration, statistics or protocols.
"""
