"""Model versions: what they are, where their weights lie, which one serves."""
