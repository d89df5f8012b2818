"""Training what a graph computes with: forward and backward through its nodes, data without labels, losses, and a trainer
that can be stopped and resumed. Modules of this package import torch."""
