"""The reference backend: torch, operator by operator."""
