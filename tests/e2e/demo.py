"""Label Studio with the example's backend, to annotate and see it learn: ``make demo``.

All of it is kept in one directory: the next start continues from there.
"""

import argparse
import fcntl
import random
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from lsml_bento import TrainingPolicy
from tests.e2e import label_studio
from tests.e2e.client import LabelStudioApi, Project
from tests.e2e.processes import ROOT, Server, free_port_near
from tests.e2e.serving import start_command

sys.path.append(str(ROOT / "examples" / "pytorch_ner"))  # a directory of its own

from ner.data import NEW_LABEL, labels_of, read_sentences

DIRECTORY = label_studio.CACHE / "demo"
EXAMPLE = ROOT / "examples" / "pytorch_ner"
CONNECTION = "pytorch_ner"
TASKS = 200
STOP_S = 9
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

NEXT = """\
Label Studio  {tasks}
login         {user}
password      {password}
backend       {backend}  (log: {log})

The model knows PER, ORG, LOC and DATE. Teach it {label}, named things that are sold:
1. Open the project. Order its tasks by Prediction score: what comes first is what the
   model is least sure of. Label all tasks, mark, submit.
2. It learns by itself, {quiet:g} s after the last annotation; Settings > Model > Start
   Training asks for it at once. 50 tasks with {label} are enough to see it work.
3. Watch it learn, and see its versions, from another terminal:
     {export}
     {tool} jobs list --watch -d {example}
     {tool} versions list {project} -d {example}
4. Select all tasks, Actions > Retrieve Predictions: they are the new version's, and so
   are the scores.

Ctrl-C stops everything. The next start continues from here; --fresh starts over.
"""


class DemoError(Exception):
    """A demo cannot continue; the message is for the person who started it."""


@dataclass
class Demo:
    """The servers of one directory.

    Attributes:
        directory: for Label Studio's data, the backend's state, its model store, logs.
        port: Label Studio's; another free one is taken if it is in use.
        backend_port: the backend's, in the same way.
        tasks: how many sentences a new project gets.
        servers: those that were started.
    """

    directory: Path
    port: int
    backend_port: int
    tasks: int = TASKS
    servers: list[Server] = field(default_factory=list)

    def run(self, *, fresh: bool = False) -> None:
        """Start all of it, say what to do, and wait until somebody ends it.

        Raises:
            DemoError: if another demo has the directory, or a server ends.
        """
        with _alone(self.directory):
            for role in ("label-studio", "backend"):
                # Those of a demo that was killed.
                Server(role, [], 0, self._log(role), {}, mark=self._mark(role)).kill()
            if fresh:
                self._forget()
            try:
                self._run()
            finally:
                _stop(self.servers)

    def _run(self) -> None:
        started = time.monotonic()
        port = _settled("Label Studio", self.port)
        studio = label_studio.server_on(self._data(), self._log("label-studio"), port)
        self._launch(studio, "label-studio")
        token = label_studio.TOKEN
        access = {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": token}
        backend = start_command(
            EXAMPLE,
            self.directory,
            *("--host", "127.0.0.1"),
            environ={**self.settings, **access},
            port=_settled("the backend", self.backend_port),
        )
        self._launch(backend, "backend")
        for server in self.servers:
            server.wait_until_healthy()
        project = self._project(LabelStudioApi(studio.url, token))
        _furnish(project, self.tasks)
        _connect(project, backend.url)
        _say(f"ready after {time.monotonic() - started:.0f} s\n")
        self._explain(project, backend)
        while all(server.is_running() for server in self.servers):
            time.sleep(0.5)
        [ended, *_] = [s for s in self.servers if not s.is_running()]
        raise DemoError(f"{ended.name} ended\n{ended.tail()}")

    @property
    def _note(self) -> Path:
        return self.directory / "project.txt"

    @property
    def settings(self) -> dict[str, str]:
        """What keeps this backend apart from the example served by itself."""
        home, store = self.directory / "lsml", self.directory / "models"
        return {"LSML_HOME": str(home), "LSML_MODEL_STORE": str(store)}

    def _launch(self, server: Server, role: str) -> None:
        _say(f"starting {server.name} ..")
        server.mark = self._mark(role)
        server.log_file = self._log(role)
        server.own_session = True
        self.servers.append(server)
        server.launch()

    def _mark(self, role: str) -> str:
        return f"demo {self.directory} {role}"

    def _log(self, role: str) -> Path:
        return self.directory / f"{role}.log"

    def _forget(self) -> None:
        for name in ("label-studio", "lsml", "models", "bentoml"):
            shutil.rmtree(self.directory / name, ignore_errors=True)
        self._note.unlink(missing_ok=True)

    def _data(self) -> Path:
        data = self.directory / "label-studio"
        if not data.exists():
            made = self.directory / "label-studio.new"
            shutil.rmtree(made, ignore_errors=True)
            shutil.copytree(label_studio.template(), made)
            with closing(sqlite3.connect(made / "label_studio.sqlite3")) as database:
                # Label Studio commits, and waits for the disk, at each prediction.
                database.execute("PRAGMA journal_mode = WAL")
            made.rename(data)
        return data

    def _project(self, api: LabelStudioApi) -> Project:
        """The project of the last time, unless somebody deleted it."""
        if self._note.exists():
            project = Project(api, int(self._note.read_text()))
            if api.request("GET", f"/api/projects/{project.id}/").is_success:
                return project
        config = (EXAMPLE / "label_config.xml").read_text(encoding="utf-8")
        project = api.create_project("Learn a new label", config)
        self._note.write_text(str(project.id))
        return project

    def _explain(self, project: Project, backend: Server) -> None:
        export = " ".join(f"{k}={_short(Path(v))}" for k, v in self.settings.items())
        text = NEXT.format(
            tasks=f"{project.api.url}/projects/{project.id}/data",
            user=label_studio.USER,
            password=label_studio.PASSWORD,
            backend=backend.url,
            log=_short(backend.log_file),
            label=NEW_LABEL,
            quiet=TrainingPolicy().quiet_s,
            export=f"export {export}",
            tool=_short(Path(sys.executable).parent / "lsml-bento"),
            example=_short(EXAMPLE),
            project=project.id,
        )
        _say(text)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """One demo a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DemoError(
                f"another demo runs in {directory}: stop it with Ctrl-C in its "
                "terminal, or give this one another --directory"
            ) from None
        yield


def _stop(servers: Sequence[Server]) -> None:
    """End all servers at the same time; a second Ctrl-C does not leave half of them."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    running = [server for server in servers if server.process is not None]
    for server in running:
        server.signal()
    with ExitStack() as waits:
        for server in running:
            waits.callback(server.wait, STOP_S)


def _settled(what: str, asked: int) -> int:
    port = free_port_near(asked)
    if asked and port != asked:
        _say(f"port {asked} is in use: {what} takes {port}")
    return port


def demo_texts(tasks: int) -> list[str]:
    """Sentences, those with the new label before others, in a fixed order."""
    rng = random.Random(0)
    sentences = read_sentences()
    rng.shuffle(sentences)
    sentences.sort(key=lambda example: NEW_LABEL not in labels_of([example]))
    chosen = [example.text for example in sentences[:tasks]]
    rng.shuffle(chosen)
    return chosen


def _furnish(project: Project, tasks: int) -> None:
    answer = project.api.call("GET", f"/api/projects/{project.id}/")
    if not answer["task_number"]:
        project.add_tasks(demo_texts(tasks))


def _connect(project: Project, url: str) -> None:
    """Connect the backend, or tell Label Studio where it answers this time."""
    known = [b for b in project.backends() if b["title"] == CONNECTION]
    if not known:
        project.connect_patiently(url, title=CONNECTION)
        _say("predicting the tasks ..")
        project.retrieve_predictions()
        return
    [backend, *_] = known
    if backend["url"] == url:
        return
    fields = {"project": project.id, "url": url, "title": CONNECTION}
    project.api.call("PATCH", f"/api/ml/{backend['id']}", json=fields)
    for webhook in project.webhooks():
        if webhook["url"] == f"{backend['url']}/webhook":
            body = {"url": f"{url}/webhook"}
            project.api.call("PATCH", f"/api/webhooks/{webhook['id']}/", json=body)


def _short(path: Path) -> str:
    """As it is typed from where the person stands."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.demo")
    what = "(%(default)s; 0: any)"
    parser.add_argument("--port", type=int, default=8080, help=f"Label Studio's {what}")
    parser.add_argument(
        "--backend-port", type=int, default=9090, help=f"the backend's {what}"
    )
    parser.add_argument("--tasks", type=int, default=TASKS, help="of a new project")
    parser.add_argument("--fresh", action="store_true", help="forget the last demo")
    parser.add_argument("--directory", type=Path, default=DIRECTORY)
    asked = parser.parse_args(arguments)
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)
    demo = Demo(asked.directory.absolute(), asked.port, asked.backend_port, asked.tasks)
    try:
        demo.run(fresh=asked.fresh)
    except KeyboardInterrupt:
        _say("\nstopped")
    except (DemoError, AssertionError, httpx.HTTPError) as error:
        _say(f"demo: {error}\nthe logs are in {_short(demo.directory)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
