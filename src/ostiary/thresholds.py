"""Figures by which rates are judged, wherever that is done."""

from __future__ import annotations

WORKS = 0.3  # lift from which an attack counts as present
EXACT = 1e-9  # by which differences of rates are off that are meant to be equal
