"""The turns of a run: who is measured when."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from benchmarks import lifecycle, verify
from benchmarks.common import alone as limit
from benchmarks.common.samples import LIMIT, OURS
from benchmarks.common.servers import Server
from benchmarks.plan import Plan
from benchmarks.serving import candidates as arms
from benchmarks.serving import measures
from benchmarks.serving.candidates import Arm
from benchmarks.serving.report import Results

SINGLE = ("startup", "memory", "projects", "soak")

Found = dict[str, float]


class Turns:
    """Takes the arms in turn and keeps what they found."""

    def __init__(
        self, page: Results, plan: Plan, chosen: list[Arm], torch_threads: int
    ) -> None:
        self._page = page
        self._plan = plan
        self._arms = chosen
        self._env = arms.environment(torch_threads)
        # Every core for the model: what /health is up against.
        self._saturating_env = arms.environment(os.cpu_count() or 1)

    def workload(self, name: str, round_: int) -> None:
        """The model alone and each arm once, beginning with another each round."""
        turns: list[tuple[str, Callable[[], Found]]] = []
        if name != "trivial":  # which takes a microsecond
            alone = partial(limit.run, name, self._plan.limit_seconds, self._env)
            turns.append((LIMIT, alone))
        for arm in self._arms:
            turns.append((arm.name, partial(self._served, arm, name, round_)))
        first = round_ % len(turns)
        for arm_name, turn in turns[first:] + turns[:first]:
            with self._page.turn(f"round {round_ + 1}, {name}, {arm_name}"):
                self._page.samples.add(name, arm_name, round_, turn())

    def _served(self, arm: Arm, name: str, round_: int) -> Found:
        with arm.start(name, self._env) as server:
            found = measures.first_answer(server, name)
            if round_ == 0:
                self._verify(arm, name, server)
            found |= measures.clients(server, name, self._plan)
            if name in limit.WITH_BULK:
                found |= measures.bulk(server, name, self._plan)
                if self._has_extras(arm, round_):
                    found |= measures.interactive(
                        server, name, self._plan, has_queue=arm.name == OURS
                    )
            return found

    def _has_extras(self, arm: Arm, round_: int) -> bool:
        return arm.name == OURS or round_ < self._plan.peer_extras

    def _verify(self, arm: Arm, name: str, server: Server) -> None:
        wrong = verify.concurrent(server.port, name)
        if wrong:
            self._page.fail(
                f"{arm.title}, {name}: {len(wrong)} wrong answers, first: {wrong[0]}"
            )

    def health(self, round_: int) -> None:
        """The health route of each arm, beside a model that has every core."""
        for arm in self._arms:
            if not self._has_extras(arm, round_):
                continue
            with (
                self._page.turn(f"round {round_ + 1}, health, {arm.name}"),
                arm.start(measures.SATURATING, self._saturating_env) as server,
            ):
                measures.first_answer(server, measures.SATURATING)
                found = measures.health(server, arm.health, self._plan)
                self._page.samples.add("health", arm.name, round_, found)

    def single(self, part: str, start_command: str) -> None:
        """A part that only our service takes, once."""
        with self._page.turn(part):
            found = self._single(part, arms.ARMS[0], start_command)
            self._page.samples.add(part, OURS, 0, found)

    def _single(self, part: str, ours: Arm, start_command: str) -> Found:
        if part == "startup":
            return lifecycle.start_up(start_command, self._env, self._plan)
        if part == "memory":
            with ours.start("trivial", self._env) as server:
                return lifecycle.idle_memory(server)
        if part == "projects":
            return lifecycle.projects(ours, self._env, self._plan)
        if not self._plan.soak_s:
            return {}
        found, remarks = lifecycle.soak(ours, self._env, self._plan)
        self._page.remarks += remarks
        return found
