"""A tagger for names in text, and the backend that serves and trains it."""
