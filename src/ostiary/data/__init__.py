"""Data sets: immutable, labels held apart from inputs, split by seed."""
