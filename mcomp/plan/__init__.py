"""Budget and search."""
