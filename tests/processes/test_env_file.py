"""The ``.env`` beside model.py, and variables that model.py sets itself."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lsml_bento.errors import LsmlError
from lsml_bento.processes.opening import env_file
from tests.cli.commands import MODEL, call, environ, write

KEY = "0123456789abcdef0123456789abcdef01234567"
SIZES = """
import os
{first}
from label_studio_ml.model import LabelStudioMLBase

class Sizes(LabelStudioMLBase):
    def setup(self):
        self.set("model_version", "sizes-1")

    def predict(self, tasks, context=None, **kwargs):
        path = self.get_local_path(tasks[0]["data"]["image"], task_id=1)
        print("read", os.path.getsize(path))
        return [{{"result": []}} for _ in tasks]
"""
CONFIG = """<View><Image name="img" value="$image"/><Choices name="size" toName="img">
<Choice value="big"/></Choices></View>"""
PREDICT = f"""
import sys
from pathlib import Path
from lsml_bento.processes.local_model import load_predict
_, _, predict = load_predict(Path(sys.argv[1]), {CONFIG!r})
print(predict([{{"id": 1, "data": {{"image": "/data/upload/1/a.png"}}}}], None))
"""


class Files:
    """A Label Studio that has one file and keeps the API keys that it is sent."""

    def __init__(self) -> None:
        self.keys: list[str | None] = []
        keys = self.keys

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                keys.append(self.headers.get("Authorization"))
                self.send_response(200)
                self.send_header("Content-Length", "5")
                self.end_headers()
                self.wfile.write(b"image")

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def files() -> Iterator[Files]:
    made = Files()
    yield made
    made.server.shutdown()
    made.server.server_close()


def variables(url: str, key: str = KEY) -> dict[str, str]:
    return {"LABEL_STUDIO_URL": url, "LABEL_STUDIO_API_KEY": key}


@pytest.mark.parametrize("where", ["file", "load_dotenv", "module", "environment"])
def test_media_is_read_with_the_address_and_key_that_are_set(
    tmp_path: Path, files: Files, where: str
) -> None:
    names = variables(files.url)
    first = {
        "load_dotenv": "from dotenv import load_dotenv; load_dotenv()",
        "module": f"os.environ.update({names})",
    }.get(where, "")
    write(tmp_path, model=SIZES.format(first=first))
    if where == "environment":
        names = variables("http://127.0.0.1:9", "of-the-file")
    if where != "module":
        text = "\n".join(f"{name}={value}" for name, value in names.items())
        (tmp_path / ".env").write_text(text)
    more = variables(files.url) if where == "environment" else {}
    command = [sys.executable, "-c", PREDICT, tmp_path]

    done = call(command, env=environ(LSML_HOME=str(tmp_path / "home"), **more))

    assert done.stdout.startswith("read 5\n"), done.stderr
    assert files.keys == [f"Token {KEY}"]


@pytest.mark.parametrize(
    "has_service", [False, True], ids=["model.py", "service.py that is imported"]
)
def test_a_command_finds_the_home_that_the_file_names(
    tmp_path: Path, has_service: bool
) -> None:
    directory = write(tmp_path / "backend", model=MODEL)
    if has_service:
        text = "import model\nfrom lsml_bento import create_service\n"
        write(directory, service=text + "svc = create_service(model.Chooser)\n")
    (directory / ".env").write_text("LSML_HOME=../state  # beside it\n")
    program = (
        "import sys; from pathlib import Path\n"
        "from lsml_bento.processes.opening import find_backend\n"
        "print(find_backend(Path(sys.argv[1])).home)"
    )
    command = [sys.executable, "-c", program, directory]

    found = call(command, env=environ()).stdout.strip()
    given = call(command, env=environ(LSML_HOME=str(tmp_path / "own"))).stdout.strip()

    assert Path(found).resolve() == tmp_path / "state"
    assert given == str(tmp_path / "own")


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    text = "\ufeffMODEL_DIR=weights\nexport OTHER='a b'\nUNSET\n"
    (tmp_path / ".env").write_text(text, encoding="utf-8")

    found = env_file(tmp_path)

    assert found == {"MODEL_DIR": str(tmp_path / "weights"), "OTHER": "a b"}


def test_a_virtual_environment_called_env_is_no_file(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()

    assert env_file(tmp_path) == {}


def test_a_file_that_is_not_text_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"KEY=\xff\xfe")

    with pytest.raises(LsmlError, match=r"\.env cannot be read: .*; save it as UTF-8"):
        env_file(tmp_path)
