"""HTTP/1.1 and 1.0 (RFC 9112): parsing, framing, the server and the client connection."""
