"""
TLS: terminated, originated, and passed through unread.

The law of the room: certificates are chosen, verified and replaced here, and nowhere else; what
the rooms above get is a transport whose bytes are plain, and the facts about its peer.
"""
