"""Plans, stages, records and the store."""
