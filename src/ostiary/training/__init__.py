"""The only training loop, and the moments an attack or defence may touch."""
