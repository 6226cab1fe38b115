"""Filters for meshproxy."""
