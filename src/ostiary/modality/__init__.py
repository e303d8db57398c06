"""HOW a kind of input is batched, called, stamped and validated."""
