"""From an nn.Module to a Graph."""
