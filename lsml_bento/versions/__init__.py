"""Model versions: their records, their weights, and which one serves."""
