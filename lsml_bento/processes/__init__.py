"""What runs: the server, the worker, the process of a fit, and their wiring."""
