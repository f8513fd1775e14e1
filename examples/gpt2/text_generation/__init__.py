"""A causal language model, and the backend that serves and trains it."""
