"""A folder of plugins, as a configuration's ``plugins:`` names one: filters to test with."""
