"""Explainers: scores on nodes and edges, or on pixels."""
