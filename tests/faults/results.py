"""A table of what rounds measured: ``python -m tests.faults.results RECORD.. > FILE``.

A record has a line of JSON for each round; ``LSML_FAULT_RECORD`` says where it goes.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from statistics import median
from typing import Any

from tests.faults.kills import TARGETS

Row = dict[str, Any]

_HEAD = """# What kill -9 costs

`{command}`, on {cores} cores, Python {python}, {system}.

Recovery is from the kill until a prediction was answered, an event was answered with a
job, and the run that was interrupted went again or a later one succeeded; 15 s at most.
The server is started again by hand only where BentoML's supervisor was killed, once all
of it is gone by itself; redis-server, with its append-only file, after 1 to 2 s.

In every round, each job whose id was answered succeeded; each annotation whose event
was answered was stored and was trained on; each prediction came from a whole
version, the one that it named; no process and no half version was left. *Unanswered* is
all rounds' requests that got an error or none: there may be some only where what
answers them was killed.

| killed | state | rounds | min s | median s | max s | jobs | unanswered |
|---|---|---|---|---|---|---|---|"""


def table(rows: list[Row], command: str) -> str:
    """The results as Markdown."""
    lines = [
        _HEAD.format(
            command=command,
            cores=os.cpu_count(),
            python=platform.python_version(),
            system=platform.system(),
        )
    ]
    for state in ("sqlite", "redis"):
        for target in TARGETS:
            found = [
                r for r in rows if (r["target"], r["state"]) == (target.name, state)
            ]
            if found:
                lines.append(_line(target.what, state, found))
    return "\n".join(lines) + "\n"


def _line(what: str, state: str, rows: list[Row]) -> str:
    recovery = [row["recovery_s"] for row in rows]
    figures = (min(recovery), median(recovery), max(recovery))
    seconds = " | ".join(f"{figure:.1f}" for figure in figures)
    requests = sum(row["predictions"] + row["events"] for row in rows)
    misses = sum(row["misses"] for row in rows)
    jobs = sum(row["jobs"] for row in rows)
    return (
        f"| {what} | {state} | {len(rows)} | {seconds} "
        f"| {jobs} | {misses} of {requests + misses} |"
    )


def main(paths: list[str]) -> None:
    """Print the table of all records."""
    lines = [line for path in paths for line in Path(path).read_text().splitlines()]
    rows = [json.loads(line) for line in lines]
    rounds = max(row["round"] for row in rows)
    command = f"make test-faults ROUNDS={rounds} RESULTS=tests/faults/RESULTS.md"
    sys.stdout.write(table(rows, command))


if __name__ == "__main__":
    main(sys.argv[1:])
