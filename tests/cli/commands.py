"""``lsml-bento`` as a person runs it: a process with an output and an exit code."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.e2e.serving import backend_environ

BIN = Path(sys.executable).parent
TOOL = BIN / "lsml-bento"

Run = subprocess.CompletedProcess[str]


def environ(**more: str) -> dict[str, str]:
    """The caller's environment without settings; its tools are found first."""
    path = os.pathsep.join([str(BIN), os.environ["PATH"]])
    kept = backend_environ(Path("nowhere"), PATH=path, COLUMNS="200")
    del kept["LSML_HOME"]
    return {**kept, **more}


def run(
    *arguments: object,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 60,
) -> Run:
    """Run ``lsml-bento`` with arguments to its end."""
    assert TOOL.exists(), f"{TOOL} is missing: run `make setup`"
    return call([TOOL, *arguments], cwd=cwd, env=env, timeout_s=timeout_s)


def call(
    command: list[object],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 60,
) -> Run:
    """Run a command to its end."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=env if env is not None else environ(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout_s,
        check=False,
    )


def refused(done: Run) -> str:
    """The one sentence with which a command ended, and nothing else."""
    assert done.returncode == 1, done.stdout + done.stderr
    [sentence] = done.stderr.splitlines()
    assert sentence.startswith("lsml-bento: ")
    return sentence.removeprefix("lsml-bento: ")


def write(directory: Path, **files: str) -> Path:
    """Make a directory with Python files, named without their suffix."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / f"{name}.py").write_text(text, encoding="utf-8")
    return directory


MODEL = """\
from lsml_bento import LabelStudioMLBase


class Chooser(LabelStudioMLBase):
    def setup(self):
        self.set("model_version", "chooser-1")

    def predict(self, tasks, context=None, **kwargs):
        region = {
            "id": "a",
            "from_name": "sentiment",
            "to_name": "text",
            "type": "choices",
            "value": {"choices": ["Neutral"]},
        }
        return [{"result": [region], "score": 0.5} for _ in tasks]
"""
LABEL_CONFIG = """\
<View>
  <Text name="text" value="$text"/>
  <Choices name="sentiment" toName="text">
    <Choice value="Positive"/><Choice value="Neutral"/>
  </Choices>
</View>
"""
