"""Detectors: which samples, inputs or classes are suspicious."""
