"""State that all processes of a backend share."""
