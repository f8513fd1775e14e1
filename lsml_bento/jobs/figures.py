"""What monitors are told of jobs, by the same names in servers and in workers."""

from __future__ import annotations

JOBS = ("lsml_jobs", "Jobs in the ledger")
"""Labelled by their status."""

OLDEST_QUEUED = (
    "lsml_oldest_queued_seconds",
    "How long the oldest job that is due waits",
)
FIT_SECONDS = ("lsml_fit_seconds_sum", "Seconds that all fits took")
FITS = ("lsml_fit_seconds_count", "Fits that ended")
