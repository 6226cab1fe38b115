"""
The admin API: what the proxy says about itself, over HTTP by twisted.web.

The laws of the room: whatever is asked with GET or HEAD changes nothing; a web page that somebody
else wrote can neither read an answer nor cause a change (:mod:`meshproxy.admin.guard`).
"""
