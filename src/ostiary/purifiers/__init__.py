"""Purifiers: a new victim without the backdoor, from what a defender holds."""
