"""Patterns and rewrites."""
