"""Compiled models, the artifact and its loader."""
