"""The service beside its peers and beside the model alone, in one run.

`python -m benchmarks.run` takes the arms in turn and writes `results.md`.
"""
