"""Positions: where in a graph a subgraph is mounted."""
