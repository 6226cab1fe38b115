"""
The filters of this package, for twistd to find.

They are named by text, so that looking for filters imports none of them. The name of this module
must be nobody else's, so it begins with the package's.
"""

from meshproxy.api import FilterPlugin

line_limit = FilterPlugin(
    "line_limit", "Refuse lines that are too long.", "example_filters.line_limit:LineLimit"
)
tenant = FilterPlugin("tenant", "Ask a service whose key this is.", "example_filters.tenant:Tenant")
