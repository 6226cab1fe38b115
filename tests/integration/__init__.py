"""The real proxy, on real sockets, with real clients and upstreams."""
