"""The service beside its peers and beside the model alone, in one run.

`python -m benchmarks.serving` takes the arms in turn and writes `results.md`.
"""
