"""Analyses: cost, liveness, density."""
