"""Names of the metrics about jobs, the same in servers and workers."""

from __future__ import annotations

JOBS = ("lsml_jobs", "Jobs in the job store")
"""Labelled by status."""

OLDEST_QUEUED = (
    "lsml_oldest_queued_seconds",
    "Seconds that the oldest due job has waited",
)
FIT_SECONDS = ("lsml_fit_seconds_sum", "Total duration of all fits in seconds")
FITS = ("lsml_fit_seconds_count", "Fits that have ended")
