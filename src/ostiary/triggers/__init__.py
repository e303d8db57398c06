"""HOW inputs are changed: stamps used by attacks."""
