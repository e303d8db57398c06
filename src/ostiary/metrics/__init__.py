"""Figures: classification, detection, stealth, intervals."""
