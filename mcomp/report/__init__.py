"""Reports and remarks."""
