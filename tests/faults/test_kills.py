"""kill -9 of every process there is, at moments of the dice, under requests.

``LSML_FAULT_ROUNDS`` rounds of each target on each state; unset, one round of each on
SQLite and of some on Redis. ``LSML_FAULT_SEED`` repeats the moments of a run, as far as
the machine does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from random import Random

from tests.e2e.processes import eventually
from tests.faults.kills import Blow, Target
from tests.faults.site import Json, Site
from tests.faults.traffic import Traffic

RECOVERY_S = 15.0
BUSY_S = 0.5
WAIT_S = 60.0
"""How long a recovery that took too long is measured."""

Note = Callable[[Json], None]


def test_all_that_was_promised_is_kept(
    site: Site, target: Target, dice: Random, note: Note
) -> None:
    site.make_ready()
    earlier = set(site.promised)
    with Traffic(site, dice, is_big=target.is_big) as traffic:
        blow = target.kill(site, dice)
        target.bring_back(site, dice)
        recovery_s = recovery(site, traffic, blow)
    site.await_quiet(40)
    jobs = [site.job(job_id) for job_id in sorted(site.promised - earlier)]
    note(
        {
            "moment": blow.moment,
            "recovery_s": round(recovery_s, 2),
            "slowest_event_s": round(traffic.slowest_event_s, 3),
            "predictions": sum(traffic.served.values()),
            "events": traffic.events,
            "misses": len(traffic.misses),
            "jobs": len(jobs),
        }
    )
    # One kill costs a run, and never a job.
    assert [job for job in jobs if job["status"] != "succeeded"] == []
    check_served(site, traffic)
    check_events(site)
    if not target.may_refuse:
        assert traffic.misses == []
    site.await_no_stray()
    assert site.halves() == []
    if target.takes_worker:  # the next one has looked into the store
        old = partial(site.old_scraps, blow.at)
        eventually(lambda: old() == [], lambda: str(old()), 5)
    assert recovery_s <= RECOVERY_S or recovery_s <= RECOVERY_S * crowding()


def recovery(site: Site, traffic: Traffic, blow: Blow) -> float:
    """Seconds from the kill until everything works again, or ``WAIT_S``.

    That is: a prediction, an event with its job, and the run that was interrupted goes
    again or a later one succeeded.
    """
    while (waited := time.time() - blow.at) < WAIT_S:
        answers = min(traffic.predicted_at, traffic.promised_at) > blow.at
        if answers and any(is_recovered(job, blow) for job in site.jobs()):
            break
        time.sleep(0.05)
    return waited


def crowding() -> float:
    """How many times longer work takes here just now than on idle cores."""
    began, spent = time.monotonic(), time.process_time()
    while time.process_time() < spent + BUSY_S:
        pass
    return (time.monotonic() - began) / BUSY_S


def is_recovered(job: Json, blow: Blow) -> bool:
    """Whether a job tells that jobs are carried out again."""
    if job["status"] == "succeeded":
        return seconds(job["finished_at"]) > blow.at
    if blow.interrupted is None or job["id"] != blow.interrupted["id"]:
        return False
    return job["status"] == "running" and seconds(job["started_at"]) > blow.at


def seconds(moment: str) -> float:
    return datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp()


def check_served(site: Site, traffic: Traffic) -> None:
    """See that each answer came from one whole version, the one that it names."""
    crcs = site.crcs()
    assert traffic.served
    assert [
        served
        for served in traffic.served
        if not served.is_whole or crcs.get(served.version) != served.crc
    ] == []


def check_events(site: Site) -> None:
    """See that no answered annotation is lost, and that all were trained on."""
    answered = set(site.answered)
    eventually(
        lambda: answered <= site.journaled() <= site.sent,
        lambda: f"lost {sorted(answered - site.journaled())[:20]}",
        5,
    )
    started = [job for job in site.jobs() if job["started_at"]]
    last = max(started, key=lambda job: seconds(job["started_at"]))
    assert last["metrics"]["annotated"] == len(site.journaled())


def test_it_ends_without_a_process_left_and_scraps_can_be_swept(site: Site) -> None:
    site.server.stop()
    left, known = site.sweep()
    assert left == known
    assert site.scraps() == []
    assert site.halves() == []
