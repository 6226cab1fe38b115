"""
The HTTP room.

A *stream* is one request and its response on a downstream connection; an *exchange* is the
core's view of it. Codecs (``h1/`` now) turn bytes into heads, body chunks and trailers, and the
core never learns which codec it talks to:

- the downstream codec makes an :class:`~meshproxy.http.exchange.Exchange`, calls ``begin``,
  ``request_data``, ``request_finished``, ``downstream_lost``, and provides
  :class:`~meshproxy.http.stream.Downstream`;
- the upstream codec provides :class:`~meshproxy.http.stream.Upstream` and calls ``response``,
  ``response_data``, ``response_finished``, ``upstream_lost``.
"""
