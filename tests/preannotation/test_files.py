"""Tasks out of a file into another, through kills, bad lines and full disks."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lsml_bento.contract import Project, Task
from lsml_bento.preannotation.durable_files import OutputError, locked
from lsml_bento.preannotation.engine import Batches
from lsml_bento.preannotation.pipeline import Pipeline, Totals
from lsml_bento.preannotation.prediction_file import (
    FileCheckpoint,
    PredictionFile,
    has_failed_tasks,
)
from lsml_bento.preannotation.retry import Retry
from lsml_bento.preannotation.run import LabelConfigCheck
from lsml_bento.preannotation.selection import PreannotationError, Unreachable
from lsml_bento.preannotation.task_file import (
    FilePage,
    Position,
    TaskFile,
    TaskFileError,
)
from tests.doubles import CONFIG, choice

START = FileCheckpoint(tasks="t", label_config="c", model_version="1")


class Chooser:
    """An engine that chooses, and fails for the texts that it is given."""

    calls = 1

    def __init__(self, *bad: str, value: str = "Positive") -> None:
        self.bad = set(bad)
        self.value = value
        self.seen = 0

    async def prepare(self, project: Project, label_config: str) -> str:
        return "1"

    async def predict(self, tasks: list[Task]) -> Sequence[bytes | Exception]:
        self.seen += len(tasks)
        slot = {"result": [choice(self.value)], "score": 0.5, "model_version": "1"}
        return [
            ValueError("a bad text")
            if task["data"]["text"] in self.bad
            else json.dumps(slot).encode()
            for task in tasks
        ]

    async def close(self) -> None:
        """Nothing is open."""


def write_lines(path: Path, *entries: object) -> Path:
    lines = [e if isinstance(e, str) else json.dumps(e) for e in entries]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def numbered(path: Path, count: int) -> Path:
    return write_lines(path, *({"text": f"text {n}"} for n in range(count)))


def run(
    engine: Chooser,
    tasks: TaskFile,
    output: PredictionFile | Retry,
    size: int = 4,
    stop_after: int | None = None,
    check: LabelConfigCheck | None = None,
) -> Totals:
    """One run as the command does it; ``stop_after`` pages a signal comes."""
    totals = Totals()

    async def go() -> None:
        batches = Batches(engine, size)
        pipeline: Pipeline[Any] = Pipeline(
            batches, output, totals, check or LabelConfigCheck(CONFIG)
        )

        def pages() -> Iterator[Any]:
            start = (
                output.position if isinstance(output, PredictionFile) else Position()
            )
            found = (
                tasks.pages(start, size)
                if isinstance(output, PredictionFile)
                else output.pages(size)
            )
            for number, page in enumerate(found):
                if number == stop_after:
                    deadline = time.monotonic() + 5
                    while not totals.predicted + totals.failed:  # the first page is out
                        assert time.monotonic() < deadline
                        time.sleep(0.001)
                    loop.call_soon_threadsafe(pipeline.stop)
                yield page

        loop = asyncio.get_running_loop()
        try:
            with output:
                await pipeline.run(pages())
                if isinstance(output, PredictionFile):
                    output.ended = tasks.ended
        finally:
            await batches.close()

    asyncio.run(go())
    return totals


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class TestTaskFiles:
    def read(self, path: Path, number: int = 0) -> list[FilePage]:
        return list(TaskFile(path).pages(Position(0, number), 100))

    def test_tasks_are_what_label_studio_imports(self, tmp_path: Path) -> None:
        path = write_lines(
            tmp_path / "tasks.jsonl",
            {"id": 7, "data": {"text": "a"}},
            {"text": "plain"},
            "",
            {"data": {"text": "c"}, "meta": {}},
        )

        [page] = self.read(path)

        assert page.tasks == [
            {"id": 7, "data": {"text": "a"}},
            {"id": 2, "data": {"text": "plain"}},
            {"id": 4, "data": {"text": "c"}, "meta": {}},
        ]
        assert [entry.position.number for entry in page.entries] == [1, 2, 4]

    @pytest.mark.parametrize(
        ("line", "fault"),
        [
            ("{broken", "invalid JSON: Expecting property name"),
            ("[1, 2]", 'not a task, {"data": {..}}, but list'),
            ("{}", 'not a task, {"data": {..}}, but an empty object'),
            ('{"data": "text"}', '"data" must be an object, not str'),
            ('{"id": [], "data": {"a": 1}}', '"id" must be a number or a string, not '),
            (
                '{"data": {"a": 1}, "predictions": 5}',
                '"predictions" must be a list, not ',
            ),
            ('{"a": NaN}', "invalid JSON: NaN is not a JSON number"),
            ("[" * 100_000, "invalid JSON: "),
        ],
    )
    def test_lines_that_are_not_tasks_are_reported(
        self, tmp_path: Path, line: str, fault: str
    ) -> None:
        path = write_lines(tmp_path / "tasks.jsonl", {"text": "a"}, line, {"text": "b"})

        [page] = self.read(path)

        assert len(page.tasks) == 2
        [failure] = page.unread
        assert failure.where == "line 2"
        assert failure.reason.startswith(fault)

    def test_a_json_list_is_read_as_lines_are(self, tmp_path: Path) -> None:
        path = tmp_path / "tasks.json"
        tasks = [{"text": "a"}, 7, {"id": 9, "data": {"n": 0.1, "m": 3}}]
        path.write_bytes(b"\xef\xbb\xbf" + json.dumps(tasks, indent=1).encode())

        [page] = self.read(path)
        [rest] = self.read(path, 2)

        assert page.tasks == [{"id": 1, "data": {"text": "a"}}, tasks[2]]
        assert [failure.where for failure in page.unread] == ["task 2"]
        assert rest.tasks == [tasks[2]]

    def test_a_truncated_list_is_read_up_to_its_end(self, tmp_path: Path) -> None:
        path = tmp_path / "tasks.json"
        path.write_text('[{"text": "a"}, {"text": "b"}, {"te')
        pages = TaskFile(path).pages(Position(), 1)

        assert [page.tasks[0]["id"] for page in (next(pages), next(pages))] == [1, 2]
        with pytest.raises(TaskFileError, match="is not valid JSON after task 2"):
            next(pages)

    def test_an_unreadable_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(TaskFileError, match="cannot be read: No such file"):
            TaskFile(tmp_path / "none.jsonl")
        with pytest.raises(TaskFileError, match="cannot be read: Is a directory"):
            TaskFile(tmp_path)
        text = write_lines(tmp_path / "text.json", '"text"')
        with pytest.raises(
            TaskFileError, match=r"does not hold a JSON list .* begins with '\"'"
        ):
            TaskFile(text)

    def test_a_json_file_may_hold_one_task(self, tmp_path: Path) -> None:
        path = tmp_path / "pretty.json"
        path.write_text(json.dumps({"text": "pretty", "x": 1}, indent=1))
        [page] = self.read(path)
        assert page.tasks == [{"id": 1, "data": {"text": "pretty", "x": 1}}]

        write_lines(path, {"text": "a"}, {"text": "b"})
        with pytest.raises(TaskFileError, match=r"name it \.jsonl if each line is a"):
            self.read(path)

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("t.csv", 'text,n,x,ok\n"one, two",7,0.5,True\nb,8,,False\n'),
            ("t.CSV", "\ufefftext;n;x;ok\r\none, two;7;0.5;True\r\nb;8;;False\r\n"),
            ("t.tsv", "text\tn\tx\tok\none, two\t7\t0.5\tTrue\nb\t8\tNA\tFalse\n"),
        ],
    )
    def test_tables_are_read_as_label_studio_reads_them(
        self, tmp_path: Path, name: str, content: str
    ) -> None:
        path = tmp_path / name
        path.write_bytes(content.encode())

        [page] = self.read(path)
        [rest] = self.read(path, 1)

        rows = [
            {"text": "one, two", "n": 7, "x": 0.5, "ok": True},
            {"text": "b", "n": 8, "x": "", "ok": False},
        ]
        assert page.tasks == [{"id": n, "data": row} for n, row in enumerate(rows, 1)]
        assert json.loads(json.dumps(page.tasks)) == page.tasks
        assert page.at == TaskFile(path).size
        assert rest.tasks == page.tasks[1:]

    def test_a_table_that_is_not_one_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "t.csv"
        for content in (b"", b'a,b\n1,2\n"3,4', b"a\n\xff\xfe\n"):
            path.write_bytes(content)
            with pytest.raises(TaskFileError, match=r"t.csv cannot be read as CSV: "):
                self.read(path)

    def test_a_pipe_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "tasks.jsonl"
        os.mkfifo(path)
        end = os.open(path, os.O_RDWR)

        with pytest.raises(
            TaskFileError, match=r"resumed from a pipe; save the tasks as a file"
        ):
            TaskFile(path)

        os.close(end)

    def test_a_limit_counts_tasks(self, tmp_path: Path) -> None:
        path = write_lines(tmp_path / "tasks.jsonl", "{", *({"n": n} for n in range(9)))
        tasks = TaskFile(path)

        sizes = [len(page.tasks) for page in tasks.pages(Position(), 4, limit=6)]

        assert sizes == [3, 3]
        assert not tasks.ended


class TestOutputs:
    def test_ids_of_an_exported_task_are_left_out(self, tmp_path: Path) -> None:
        old = {"model_version": "0", "result": []}
        task = {"id": 5, "data": {"text": "one"}, "predictions": [11, old]}
        path = write_lines(
            tmp_path / "export.jsonl",
            {**task, "annotations": [{"id": 3, "result": []}, 4], "drafts": [6]},
            {**task, "annotations": None, "predictions": [12, 13]},
        )
        output = tmp_path / "out.jsonl"

        run(Chooser(), TaskFile(path), PredictionFile(output, START, "line"))

        first, second = rows(output)
        assert first["predictions"][0] == old
        assert [len(row["predictions"]) for row in (first, second)] == [2, 1]
        assert first["annotations"] == [{"id": 3, "result": []}]
        assert (first["drafts"], second["annotations"]) == ([], [])

    def test_a_table_resumes_after_the_rows_that_are_done(self, tmp_path: Path) -> None:
        path, output = tmp_path / "t.csv", tmp_path / "out.jsonl"
        path.write_text("text\n" + "".join(f"text {n}\n" for n in range(40)))

        run(
            Chooser(),
            TaskFile(path),
            PredictionFile(output, START, "row"),
            stop_after=2,
        )
        assert 0 < len(rows(output)) < 40
        run(Chooser("text 39"), TaskFile(path), PredictionFile(output, START, "row"))

        texts = [row["data"]["text"] for row in rows(output)]
        assert texts == [f"text {n}" for n in range(40)]
        [failure] = rows(tmp_path / "out.jsonl.failed.jsonl")
        assert (failure["where"], failure["reason"][-10:]) == ("row 40", "a bad text")

    def test_each_line_is_a_task_with_its_predictions(self, tmp_path: Path) -> None:
        old = [{"model_version": "0", "result": []}, {"model_version": "1"}]
        tasks = TaskFile(
            write_lines(
                tmp_path / "tasks.jsonl",
                {"text": "Zoë 🐉"},
                {"id": 5, "data": {"text": "b"}, "predictions": old},
                "{",
                {"text": "\ud800"},
            )
        )
        output = PredictionFile(tmp_path / "out.jsonl", START, tasks.unit)

        totals = run(Chooser(), tasks, output)

        found = rows(tmp_path / "out.jsonl")
        mine = {"result": [choice("Positive")], "score": 0.5, "model_version": "1"}
        assert found == [
            {"data": {"text": "Zoë 🐉"}, "predictions": [mine]},
            {"id": 5, "data": {"text": "b"}, "predictions": [old[0], mine]},
            {"data": {"text": "\ud800"}, "predictions": [mine]},
        ]
        assert "Zoë 🐉" in (tmp_path / "out.jsonl").read_text("utf-8")
        assert (totals.predicted, totals.failed) == (3, 1)
        assert output.checkpoint.ended

    def test_a_run_resumes_where_it_stopped(self, tmp_path: Path) -> None:
        tasks = TaskFile(numbered(tmp_path / "tasks.jsonl", 50))
        whole = PredictionFile(tmp_path / "whole.jsonl", START, "line")
        run(Chooser("text 3", "text 33"), tasks, whole)

        engine = Chooser("text 3", "text 33")
        for stop_after in (2, 4, 1, None):
            output = PredictionFile(tmp_path / "out.jsonl", START, "line")
            run(engine, tasks, output, stop_after=stop_after)

        for suffix in ("", ".failed.jsonl", ".checkpoint"):
            resumed = tmp_path / f"out.jsonl{suffix}"
            assert resumed.read_bytes() == (
                (tmp_path / f"whole.jsonl{suffix}").read_bytes()
            )
        assert engine.seen < 2 * 50

    def test_lines_after_the_checkpoint_are_written_again(self, tmp_path: Path) -> None:
        tasks = TaskFile(numbered(tmp_path / "tasks.jsonl", 10))
        output = PredictionFile(tmp_path / "out.jsonl", START, "line")
        run(Chooser(), tasks, output, stop_after=1)
        kept = (tmp_path / "out.jsonl").read_bytes()
        (tmp_path / "out.jsonl").write_bytes(kept + b'{"half a li')

        run(Chooser(), tasks, PredictionFile(tmp_path / "out.jsonl", START, "line"))

        assert len(rows(tmp_path / "out.jsonl")) == 10

    @pytest.mark.parametrize(
        ("other", "difference"),
        [
            ({"tasks": "u"}, "of other tasks"),
            ({"label_config": "d"}, "for another label config"),
            ({"model_version": "2"}, "by the model version '1'"),
        ],
    )
    def test_the_output_of_another_run_is_not_changed(
        self, tmp_path: Path, other: dict[str, str], difference: str
    ) -> None:
        path = tmp_path / "out.jsonl"
        tasks = TaskFile(numbered(tmp_path / "tasks.jsonl", 5))
        run(Chooser(), tasks, PredictionFile(path, START, "line"))
        kept = path.read_bytes()
        start = START.model_copy(update=other)

        with pytest.raises(OutputError, match=f"{difference}.*--overwrite"):
            PredictionFile(path, start, "line")

        assert path.read_bytes() == kept
        run(Chooser(), tasks, PredictionFile(path, start, "line", overwrite=True))
        assert len(rows(path)) == 5

    def test_a_foreign_file_is_not_changed(self, tmp_path: Path) -> None:
        path = tmp_path / "out.jsonl"
        path.write_text("mine")

        with pytest.raises(OutputError, match="checkpoint beside it"):
            PredictionFile(path, START, "line")
        (tmp_path / "out.jsonl.checkpoint").write_text("{}")
        with pytest.raises(
            PreannotationError, match="not a checkpoint of this version"
        ):
            PredictionFile(path, START, "line")
        assert path.read_text() == "mine"

    def test_a_truncated_output_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "out.jsonl"
        tasks = TaskFile(numbered(tmp_path / "tasks.jsonl", 5))
        run(Chooser(), tasks, PredictionFile(path, START, "line"))
        path.write_text("")

        with pytest.raises(OutputError, match="has 0 bytes but its checkpoint counts"):
            PredictionFile(path, START, "line")

    def test_a_missing_list_of_failures_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "out.jsonl"
        tasks = TaskFile(numbered(tmp_path / "tasks.jsonl", 9))
        run(Chooser("text 1"), tasks, PredictionFile(path, START, "line"))
        (tmp_path / "out.jsonl.failed.jsonl").unlink()

        with pytest.raises(OutputError, match=r"failed.jsonl has 0 bytes but"):
            PredictionFile(path, START, "line")

    def test_two_runs_do_not_share_an_output(self, tmp_path: Path) -> None:
        taken = pytest.raises(PreannotationError, match="another run is writing")
        with locked(tmp_path / "out"), taken, locked(tmp_path / "out"):
            pass
        assert list(tmp_path.iterdir()) == []

    def test_predictions_that_do_not_fit_are_written_and_listed(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "out.jsonl"
        tasks = TaskFile(numbered(tmp_path / "tasks.jsonl", 5))
        check = LabelConfigCheck(CONFIG)

        run(
            Chooser(value="Purple"),
            tasks,
            PredictionFile(path, START, "line"),
            size=2,
            check=check,
        )

        assert [len(row["predictions"]) for row in rows(path)] == [1] * 5
        assert (check.checked, check.misfits) == (5, 5)
        assert [line.split(":")[0] for line in check.examples] == [
            f"task {n}, region 0" for n in range(1, 6)
        ]
        [record] = caplog.records
        assert record.getMessage().startswith(
            "Label Studio will not show a prediction: task 1, region 0: 'Purple' is not"
        )

    def test_a_box_over_the_edge_is_a_warning(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        config = """<View><Image name="image" value="$image"/>
        <RectangleLabels name="label" toName="image"><Label value="Ship"/>
        </RectangleLabels></View>"""
        value = {"x": -0.04, "y": 20.0, "width": 50, "height": 10}
        region: dict[str, Any] = {"from_name": "label", "to_name": "image"}
        region |= {
            "type": "rectanglelabels",
            "value": {**value, "rectanglelabels": ["Ship"]},
        }
        check = LabelConfigCheck(config)

        for n in (1, 2):
            slot = json.dumps({"result": [region], "score": 0.5}).encode()
            check([{"id": n, "data": {"image": "https://example.com/1.jpg"}}], [slot])

        assert (check.checked, check.misfits, check.warned) == (2, 0, 2)
        [record] = caplog.records
        assert record.getMessage().startswith(
            "A prediction may be wrong: task 1, region 0: x -0.04 is outside the image"
        )

    def test_after_many_predictions_that_fit_one_of_each_page_is_checked(self) -> None:
        check = LabelConfigCheck(CONFIG)
        tasks = [{"id": n, "data": {"text": "a"}} for n in range(600)]
        good, bad = (
            json.dumps({"result": [choice(value)], "score": 0.5}).encode()
            for value in ("Positive", "Purple")
        )

        for _ in range(3):
            check(tasks, [good] * 600)
        assert (check.checked, check.misfits) == (1201, 0)
        check(tasks, [bad] * 600)
        check(tasks, [good, *[bad] * 599])
        assert (check.checked, check.misfits) == (1802, 600)
        assert len(check.examples) == 20


class TestRetries:
    def test_retried_tasks_keep_their_lines(self, tmp_path: Path) -> None:
        path = tmp_path / "out.jsonl"
        entries = [{"text": f"text {n}"} for n in range(30)]
        tasks = TaskFile(
            write_lines(tmp_path / "t.jsonl", *entries[:9], "{", *entries[9:])
        )
        bad = Chooser("text 0", "text 7", "text 11", "text 29")
        output = PredictionFile(path, START, "line")
        run(bad, tasks, output)
        assert output.checkpoint.failures == 5

        bad.bad = {"text 11"}
        second = Retry(path, output.checkpoint)
        totals = run(bad, tasks, second)

        assert (totals.predicted, totals.failed) == (3, 1)
        whole = tmp_path / "whole.jsonl"
        run(Chooser("text 11"), tasks, PredictionFile(whole, START, "line"))
        for suffix in ("", ".failed.jsonl", ".checkpoint"):
            mended = tmp_path / f"out.jsonl{suffix}"
            assert (
                mended.read_bytes() == (tmp_path / f"whole.jsonl{suffix}").read_bytes()
            )
        assert second.checkpoint.failures == 2
        assert has_failed_tasks(tmp_path / "out.jsonl.failed.jsonl")

    def test_a_stopped_retry_keeps_all_tasks(self, tmp_path: Path) -> None:
        path = tmp_path / "out.jsonl"
        tasks = TaskFile(numbered(tmp_path / "tasks.jsonl", 40))
        bad = Chooser(*(f"text {n}" for n in range(0, 40, 2)))
        output = PredictionFile(path, START, "line")
        run(bad, tasks, output)
        bad.bad = set()
        second = Retry(path, output.checkpoint)
        run(bad, tasks, second, size=2, stop_after=3)
        left = second.checkpoint.failures
        assert 0 < left < 20

        run(bad, tasks, Retry(path, second.checkpoint))

        assert all(len(row["predictions"]) == 1 for row in rows(path))
        assert [row["data"]["text"] for row in rows(path)] == [
            f"text {n}" for n in range(40)
        ]

    def test_a_retry_keeps_answers_if_the_backend_becomes_unreachable(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "out.jsonl"
        tasks = TaskFile(numbered(tmp_path / "tasks.jsonl", 40))
        output = PredictionFile(path, START, "line")
        run(Chooser(*(f"text {n}" for n in range(0, 40, 2))), tasks, output)

        class Leaving(Chooser):
            async def predict(self, tasks: list[Task]) -> Sequence[bytes | Exception]:
                if self.seen >= 12:
                    raise Unreachable("nobody answers")
                return await super().predict(tasks)

        second = Retry(path, output.checkpoint)
        with pytest.raises(Unreachable):
            run(Leaving(), tasks, second)

        assert 0 < second.checkpoint.failures < 20
        found = PredictionFile(path, START, "line").checkpoint
        run(Chooser(), tasks, Retry(path, found))
        assert [len(row["predictions"]) for row in rows(path)] == [1] * 40

    def test_a_failed_swap_is_completed_by_the_next_run(self, tmp_path: Path) -> None:
        path = tmp_path / "out.jsonl"
        tasks = TaskFile(numbered(tmp_path / "tasks.jsonl", 3))
        output = PredictionFile(path, START, "line")
        run(Chooser("text 1"), tasks, output)

        class Blocking(Chooser):
            async def predict(self, tasks: list[Task]) -> Sequence[bytes | Exception]:
                path.unlink()
                (path / "inside").mkdir(parents=True)  # nothing takes its place
                return await super().predict(tasks)

        second = Retry(path, output.checkpoint)
        with pytest.raises(OutputError):
            run(Blocking(), tasks, second)
        (path / "inside").rmdir()
        path.rmdir()

        found = PredictionFile(path, START, "line").checkpoint

        assert (found.failures, found.swapping) == (0, False)
        assert [len(row["predictions"]) for row in rows(path)] == [1] * 3

    def test_a_killed_swap_is_completed_by_the_next_run(self, tmp_path: Path) -> None:
        path = tmp_path / "out.jsonl"
        tasks = TaskFile(numbered(tmp_path / "tasks.jsonl", 3))
        output = PredictionFile(path, START, "line")
        run(Chooser("text 1"), tasks, output)
        whole = tmp_path / "whole.jsonl"
        other = PredictionFile(whole, START, "line")
        run(Chooser(), tasks, other)
        swapping = other.checkpoint.model_copy(update={"swapping": True})
        (tmp_path / "out.jsonl.checkpoint").write_text(swapping.model_dump_json())
        whole.rename(tmp_path / "out.jsonl.next")
        (tmp_path / "whole.jsonl.failed.jsonl").rename(
            tmp_path / "out.jsonl.failed.jsonl.next"
        )

        found = PredictionFile(path, START, "line").checkpoint

        assert found == other.checkpoint
        assert all(row["predictions"] for row in rows(path))


FULL = """
import resource, sys
from pathlib import Path
from tests.preannotation.test_files import START, Chooser, run
from lsml_bento.preannotation.prediction_file import PredictionFile
from lsml_bento.preannotation.task_file import TaskFile

size = int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
tasks = TaskFile(Path(sys.argv[1]))
run(Chooser(), tasks, PredictionFile(Path(sys.argv[2]), START, "line"))
"""


@pytest.mark.parametrize("size", [20_000, 400])  # after a while, and in the first page
def test_a_full_disk_loses_nothing(tmp_path: Path, size: int) -> None:
    tasks = numbered(tmp_path / "tasks.jsonl", 500)
    output = tmp_path / "out.jsonl"
    command = [sys.executable, "-c", FULL, str(tasks), str(output), str(size)]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"lsml_bento.preannotation.durable_files.OutputError: {output} cannot be "
        "written: File too large; free some space and run the same command again "
        "to continue"
    )
    assert output.stat().st_size == size
    run(Chooser(), TaskFile(tasks), PredictionFile(output, START, "line"))
    assert [row["data"]["text"] for row in rows(output)] == [
        f"text {n}" for n in range(500)
    ]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != size


def test_pages_before_an_error_are_written(
    tmp_path: Path,
) -> None:
    path = tmp_path / "tasks.json"
    path.write_text('[{"text": "a"}, {"text": "b"}, {"text": "c"}, {"te')
    output = tmp_path / "out.jsonl"

    with pytest.raises(TaskFileError):
        run(Chooser(), TaskFile(path), PredictionFile(output, START, "task"), size=2)

    assert [row["data"]["text"] for row in rows(output)] == ["a", "b"]
