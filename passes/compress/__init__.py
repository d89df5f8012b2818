"""Compressions: quantize."""
