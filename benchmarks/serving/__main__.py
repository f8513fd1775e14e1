"""Compare lsml-bento with LitServe, BentoML's batching and the model alone."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.common import alone, machine, tasks, wrk
from benchmarks.common.models import TARGETS
from benchmarks.common.page import exit_on_sigterm, some_of, wide_console
from benchmarks.common.samples import ALONE, OURS
from benchmarks.common.servers import Server, torch_threads
from benchmarks.serving import candidates, measures, setup
from benchmarks.serving.candidates import CANDIDATES, Candidate
from benchmarks.serving.measures import QUICK, Found, Plan
from benchmarks.serving.report import RESULTS, Results, results

_COMMAND = "python -m benchmarks.serving"
_WORKLOADS = tuple(TARGETS)
_SINGLE = ("startup", "memory", "projects", "soak")
"""What only lsml-bento is measured on, once."""
_PARTS = (*_WORKLOADS, "health", *_SINGLE)
_NAMES = tuple(one.name for one in CANDIDATES)


class Run:
    """Measures the servers one after the other and keeps their numbers."""

    def __init__(
        self, page: Results, plan: Plan, chosen: list[Candidate], threads: int
    ) -> None:
        self._page = page
        self._plan = plan
        self._chosen = chosen
        self._env = torch_threads(threads)
        # For /health the model gets every core.
        self._saturating_env = torch_threads(os.cpu_count() or 1)

    def workload(self, name: str, round_: int) -> None:
        """Measure the model alone and each server, in another order each round."""
        steps: list[tuple[str, Callable[[], Found]]] = []
        if name != "trivial":  # whose model takes a microsecond
            seconds = self._plan.alone_seconds
            model = partial(alone.ask, "clients", name, seconds, self._env)
            steps.append((ALONE, model))
        for one in self._chosen:
            steps.append((one.name, partial(self._served, one, name, round_)))
        first = round_ % len(steps)
        for series, step in steps[first:] + steps[:first]:
            with self._page.step(f"round {round_ + 1}, {name}, {series}"):
                self._page.samples.add(name, series, round_, step())

    def _served(self, one: Candidate, name: str, round_: int) -> Found:
        with one.start(name, self._env) as server:
            found = measures.first_answer(server, name)
            if round_ == 0:
                self._check(one, name, server)
            found |= measures.clients(server, name, self._plan)
            if name in alone.WITH_BULK:
                found |= measures.bulk(server, name, self._plan)
                if self._has_extras(one, round_):
                    found |= measures.interactive(
                        server, name, self._plan, has_queue=one.name == OURS
                    )
            return found

    def _has_extras(self, one: Candidate, round_: int) -> bool:
        return one.name == OURS or round_ < self._plan.peer_extras

    def _check(self, one: Candidate, name: str, server: Server) -> None:
        wrong = tasks.concurrent(server.port, name)
        if wrong:
            self._page.fail(
                f"{one.title}, {name}: {len(wrong)} wrong answers, first: {wrong[0]}"
            )

    def health(self, round_: int) -> None:
        """Measure the health route of each server while its model has every core."""
        for one in self._chosen:
            if not self._has_extras(one, round_):
                continue
            with (
                self._page.step(f"round {round_ + 1}, health, {one.name}"),
                one.start(measures.SATURATING, self._saturating_env) as server,
            ):
                measures.first_answer(server, measures.SATURATING)
                found = measures.health(server, one.health, self._plan)
                self._page.samples.add("health", one.name, round_, found)

    def single(self, part: str) -> None:
        """Measure a part that concerns only lsml-bento."""
        with self._page.step(part):
            self._page.samples.add(part, OURS, 0, self._single(part, CANDIDATES[0]))

    def _single(self, part: str, ours: Candidate) -> Found:
        if part == "startup":
            return measures.start_up(self._env, self._plan)
        if part == "memory":
            with ours.start("trivial", self._env) as server:
                return measures.idle_memory(server)
        if part == "projects":
            return measures.projects(ours, self._env, self._plan)
        if not self._plan.soak_s:
            return {}
        found, remark = measures.soak(ours, self._env, self._plan)
        self._page.remarks.append(remark)
        return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(_COMMAND, description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="one short round without the soak")
    for option, choices in (("--only", _PARTS), ("--servers", _NAMES)):
        add(
            option,
            type=some_of(choices),
            default=list(choices),
            metavar="NAME,...",
            help=f"measure only some of {', '.join(choices)}",
        )
    add("--rounds", type=int, help=f"rounds per server (default: {Plan.rounds})")
    add("--soak-s", type=float, help="seconds of the long load with 64 clients")
    # The server and the load generator need a core of their own. If torch uses all of
    # them, its threads wait for each other at every layer and nothing else is measured.
    add("--torch-threads", type=int, default=max(1, (os.cpu_count() or 1) // 2))
    add(
        "--litserve-timeout-ms",
        type=float,
        metavar="MS",
        help="LitServe's batch_timeout, instead of the tuned values",
    )
    add("--out", type=Path, help="page to write (default: results.md after a full run)")
    add("--samples", type=Path, help="also write every number to this JSON file")
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    plan = QUICK if options.quick else Plan()
    if options.rounds:
        plan = dataclasses.replace(plan, rounds=options.rounds)
    if options.soak_s is not None:
        plan = dataclasses.replace(plan, soak_s=options.soak_s)
    return plan


def _is_full(options: argparse.Namespace) -> bool:
    is_default = not options.quick and options.litserve_timeout_ms is None
    parts = set(options.only) | set(options.servers)
    return is_default and parts == {*_PARTS, *_NAMES}


def _prepare(options: argparse.Namespace) -> None:
    exit_on_sigterm()
    try:
        wrk.require_tools()
    except wrk.MissingToolError as error:
        sys.exit(str(error))
    if "litserve" in options.servers:
        setup.main()
    if options.litserve_timeout_ms is not None:
        timeouts = dict.fromkeys(_WORKLOADS, options.litserve_timeout_ms)
        candidates.LITSERVE_BATCH_TIMEOUT_MS.update(timeouts)


def main() -> int:
    """Measure; 1 if a part failed."""
    options = _parser().parse_args()
    _prepare(options)
    described = machine.describe(_COMMAND)
    described["litserve"] = setup.version()
    described["torch threads"] = (
        f"{options.torch_threads}, for every server and the model alone"
    )
    out = options.out or (RESULTS if _is_full(options) else None)
    page = results(described, wide_console(), out)
    chosen = [one for one in CANDIDATES if one.name in options.servers]
    plan = _plan(options)
    run = Run(page, plan, chosen, options.torch_threads)
    for round_ in range(plan.rounds):
        for name in _WORKLOADS:
            if name in options.only:
                run.workload(name, round_)
        if "health" in options.only:
            run.health(round_)
        page.write()
    for part in _SINGLE:
        if part in options.only and OURS in options.servers:
            run.single(part)
    if options.samples:
        page.samples.save(options.samples)
    page.end()
    return 1 if page.failures else 0


if __name__ == "__main__":
    sys.exit(main())
