"""One outside library per module; no adapter imports another."""
