"""Between a route and a socket: clusters, their endpoints, and the choice among them.

This floor knows no protocol: HTTP, TCP and what follows use the same clusters.
"""
