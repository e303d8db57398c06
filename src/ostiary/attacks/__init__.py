"""WHICH inputs are poisoned, with which labels, and whether training is touched."""
