"""
TCP: a listener's connections, each joined to one connection of a cluster.

What happens to a connection: the listener counts it and refuses it over its cap; where the listener
says so, a PROXY protocol header is read; a cluster is drawn by weight and an endpoint picked;
nothing is read from the client until the upstream is up; then a relay moves the bytes, in the
kernel wherever it can; at the end the counters are settled and one access record is written.
"""
