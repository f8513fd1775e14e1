"""The README's commands, run as a newcomer would type them."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lsml_bento import LabelStudioMLBase
from lsml_bento.testing import client_for
from tests.e2e.processes import ROOT, Server, free_port
from tests.e2e.serving import BIN, backend_environ

README = (ROOT / "README.md").read_text()
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]

pytestmark = pytest.mark.e2e


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def with_tools(environ: dict[str, str]) -> dict[str, str]:
    return {**environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def test_a_backend_of_the_readme_s_commands_answers(tmp_path: Path) -> None:
    create, check, start, serve = [
        line
        for block in blocks("sh")
        for line in block.splitlines()
        if "my_backend" in line
    ]
    environ = with_tools(backend_environ(tmp_path / "home"))
    for command in (create, check):
        done = subprocess.run(
            shlex.split(command), cwd=tmp_path, env=environ, capture_output=True
        )
        assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()

    for command in (start, serve):
        port = free_port()
        typed = command.replace("-p 9090", f"-p {port}")
        server = Server(
            name=command,
            command=["bash", "-c", f"exec {typed}"]
            if "&&" not in typed
            else ["bash", "-c", typed.replace("&& ", "&& exec ")],
            port=port,
            log_file=tmp_path / "server.log",
            environ={**environ, "PORT": str(port)},
            cwd=tmp_path,
        )
        with server:
            assert predictions_of_the_readme_s_client(server, tmp_path) == 1


def predictions_of_the_readme_s_client(server: Server, directory: Path) -> int:
    (client,) = [block for block in blocks("python") if "SyncHTTPClient" in block]
    config = (directory / "my_backend" / "label_config.xml").read_text()
    program = (
        f"config = {config!r}\n"
        + client.replace("http://localhost:9090", server.url).replace(
            "client.predict_tasks(", "answer = client.predict_tasks("
        )
        + "import json; print(json.dumps(answer))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return len(json.loads(done.stdout))


def test_the_readme_s_class_answers_its_label_config() -> None:
    (program,) = [block for block in blocks("python") if "class Sentiment" in block]
    names: dict[str, type[LabelStudioMLBase]] = {}
    exec(program, {"judge": lambda text: "Good", "__name__": "readme"}, names)  # noqa: S102
    body = {
        "tasks": [{"id": 1, "data": {"text": "What a day"}}],
        "label_config": '<View><Text name="t" value="$text"/><Choices name="c" '
        'toName="t"><Choice value="Good"/><Choice value="Bad"/></Choices></View>',
    }

    with client_for(names["Sentiment"], environ={}) as client:
        (prediction,) = client.post("/predict", json=body).json()["results"]

    assert prediction["result"][0]["value"] == {"choices": ["Good"]}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_points_to_is_there(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text())
    missing = [
        link
        for link in links
        if "://" not in link and not (path.parent / link).exists()
    ]

    assert missing == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_tells_make_to_do_is_a_target(path: Path) -> None:
    targets = set(
        re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    )
    told = set(re.findall(r"(?:^|`)make ([a-z0-9]+)", path.read_text(), re.MULTILINE))

    assert told <= targets
