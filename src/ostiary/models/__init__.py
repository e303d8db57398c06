"""Victims: how the library sees models, and the built-in architectures."""
