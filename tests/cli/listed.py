"""Jobs as a list shows them."""

from __future__ import annotations

from typing import Any

from lsml_bento.jobs.job import Job, new_id

NOW = 1_795_426_489.0


def job(**more: Any) -> Job:
    about = {"project": "1.100", "event": "START_TRAINING", "created_at": NOW - 200}
    return Job.model_validate({"id": new_id(0), **about, **more})
