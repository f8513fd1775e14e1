"""How long and how often a run measures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Durations in seconds."""

    rounds: int
    seconds: float
    limit_seconds: float
    interactive_seconds: float
    health_seconds: float
    posts: int
    starts: int
    project_seconds: float
    soak_s: float
    peer_extras: int
    """In how many rounds the peers, too, do what only has a goal for us."""


# 64 clients need some hundred requests for a p99, the slowest workload gives 200/s.
FULL = Plan(
    rounds=3,
    seconds=2,
    limit_seconds=1,
    interactive_seconds=4,
    health_seconds=2,
    posts=3,
    starts=3,
    project_seconds=3,
    soak_s=300,
    peer_extras=1,
)
QUICK = Plan(
    rounds=1,
    seconds=1,
    limit_seconds=0.7,
    interactive_seconds=2,
    health_seconds=2,
    posts=1,
    starts=1,
    project_seconds=1,
    soak_s=0,
    peer_extras=0,
)
