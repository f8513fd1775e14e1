"""A new backend: its files, its names, and what it is made around."""

import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.cli.commands import LABEL_CONFIG, MODEL, Run, call, refused, run, write
from tests.e2e.processes import ROOT
from tests.variables import environment_names

FILES = {
    ".dockerignore",
    "Dockerfile",
    "README.md",
    "bentofile.yaml",
    "docker-compose.yml",
    "label_config.xml",
    "model.py",
    "requirements.txt",
    "service.py",
    "test_api.py",
}
TEMPLATE = ROOT / "lsml_bento" / "template"
LEGACY = ROOT / "tests" / "legacy" / "keyword_backend"
LEGACY_CONFIG = """\
<View>
  <Text name="text" value="$text"/>
  <Choices name="mood" toName="text"><Choice value="happy"/></Choices>
</View>
"""


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if path.is_file()}


def own_tests(directory: Path) -> Run:
    """Its own tests, in a process of their own."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    return call([*command, "--rootdir", directory], cwd=directory)


# What is written


def test_every_file_is_written_and_named(creation: tuple[Path, Run]) -> None:
    directory, done = creation
    assert done.returncode == 0, done.stderr
    assert files(directory) == FILES
    [wheel] = (directory / "wheels").iterdir()
    told = done.stdout.splitlines()
    assert told[0] == "Created the backend My Backend:"
    assert {line.strip() for line in told[1:12]} == FILES | {f"wheels/{wheel.name}"}
    assert "  lsml-bento start 'My Backend' -p 9090" in told
    assert "  lsml-bento check 'My Backend'" in told


def test_the_names_are_those_of_the_directory_and_of_the_wheel(created: Path) -> None:
    [wheel] = (created / "wheels").iterdir()
    for path in created.iterdir():
        if path.is_file() and path.name != "model.py":
            text = path.read_text()
            assert "new-model" not in text, path
            assert "0.0.0-py3" not in text, path
    assert (created / "service.py").read_text() == (
        "from lsml_bento import create_service\n\n"
        'svc = create_service("model:NewModel", name="my-backend")\n'
    )
    assert f"\n./wheels/{wheel.name}\n" in (created / "requirements.txt").read_text()
    assert 'name: "my-backend"' in (created / "bentofile.yaml").read_text()


def test_its_own_tests_pass(created: Path) -> None:
    done = own_tests(created)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def test_its_own_tests_notice_a_wrong_name(created: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(created, broken)
    model = broken / "model.py"
    model.write_text(
        model.read_text().replace('"from_name": control', '"from_name": 1')
    )
    done = own_tests(broken)
    assert done.returncode == 1
    assert "2 passed" in done.stdout or "3 passed" in done.stdout


def test_init_and_root_dir_are_known_from_label_studio_ml(tmp_path: Path) -> None:
    done = run("init", "my_backend", "--root-dir", "below", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "below" / "my_backend") == FILES


def test_a_name_of_ones_own_is_that_of_service_and_bento(tmp_path: Path) -> None:
    done = run("create", "backend", "--name", "mood_2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'name="mood-2"' in (tmp_path / "backend" / "service.py").read_text()
    assert 'name: "mood-2"' in (tmp_path / "backend" / "bentofile.yaml").read_text()


@pytest.mark.parametrize("name", ["Großes", "a b", "", "-a", "x" * 64])
def test_a_name_that_bentoml_does_not_take_is_refused(
    tmp_path: Path, name: str
) -> None:
    sentence = refused(run("create", "backend", "--name", name, cwd=tmp_path))
    assert "cannot name a BentoML service: use up to 63 lowercase" in sentence
    assert list(tmp_path.iterdir()) == []


# The image and compose


def test_every_variable_of_the_template_is_a_setting() -> None:
    named = set()
    for path in sorted(TEMPLATE.iterdir()):
        if path.is_file():
            text = path.read_text()
            named |= set(re.findall(r"\$\{([A-Z_]+)", text))
            named |= set(re.findall(r"^ *(?:ENV )?([A-Z_]{3,})(?:=|: )", text, re.M))
            named |= set(re.findall(r"`([A-Z]+_[A-Z_]+)`", text))
    assert {"LSML_HOME", "LABEL_STUDIO_URL", "BASIC_AUTH_PASS", "PORT"} <= named
    assert named <= set(environment_names())


def test_the_image_runs_as_a_numbered_user_without_a_shell() -> None:
    lines = (TEMPLATE / "Dockerfile").read_text().splitlines()
    assert "USER 1034:1034" in lines
    assert (
        'CMD ["bentoml", "serve", "service:svc", "--host", "0.0.0.0", "--port", '
        in (lines[-1])
    )
    assert "EXPOSE 9090" in lines
    assert any(line.startswith("HEALTHCHECK") for line in lines)
    assert any("CMD [" in line and "9090/health" in line for line in lines)
    assert ".lsml" in (TEMPLATE / "dockerignore").read_text().splitlines()


def test_compose_keeps_state_in_a_volume() -> None:
    compose = (TEMPLATE / "docker-compose.yml").read_text()
    image = (TEMPLATE / "Dockerfile").read_text()
    assert "      - state:/data\n" in compose
    assert "\nENV LSML_HOME=/data LSML_MODEL_STORE=/data/models\n" in image


def test_compose_decides_nothing_that_service_py_may_decide() -> None:
    compose = (TEMPLATE / "docker-compose.yml").read_text()
    for name in ("WORKERS", "THREADS", "LSML_MAX_BATCH_SIZE"):
        assert f'{name}: "${{{name}:-}}"' in compose


# A directory that is there already


def test_a_directory_that_is_not_empty_stays_as_it_was(tmp_path: Path) -> None:
    write(tmp_path, **dict.fromkeys("abcdef", ""))
    sentence = refused(run("create", ".", cwd=tmp_path))
    assert (
        "is not empty, it contains a.py, b.py, c.py, d.py, e.py and 1 more" in sentence
    )
    assert "--force" in sentence
    assert files(tmp_path) == {f"{name}.py" for name in "abcdef"}


def test_force_writes_ours_and_leaves_others(tmp_path: Path) -> None:
    write(tmp_path, model="old", mine="mine")
    old = tmp_path / "wheels" / "lsml_bento-0.0.1-py3-none-any.whl"
    old.parent.mkdir()
    old.write_text("old")
    done = run("create", ".", "--force", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "class NewModel" in (tmp_path / "model.py").read_text()
    assert (tmp_path / "mine.py").read_text() == "mine"
    assert files(tmp_path) == FILES | {"mine.py"}
    assert len(list((tmp_path / "wheels").iterdir())) == 1
    assert not old.exists()


def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "backend").write_text("")
    for option in ([], ["--force"]):
        sentence = refused(run("create", "backend", *option, cwd=tmp_path))
        assert sentence.endswith("backend is a file: name a new directory")


# --from


def test_from_serves_the_class_with_what_stands_beside_it(tmp_path: Path) -> None:
    imports = "import words\nfrom parts.more import x\nimport os, numpy\n"
    source = write(tmp_path / "old", chooser=imports + MODEL, words="import deep\n")
    write(source, deep="", not_imported="")
    write(source / "parts", more="x = 1\n", __init__="")
    (source / "label_config.xml").write_text(LABEL_CONFIG)
    (source / "requirements.txt").write_text(
        "# a comment\nlabel-studio-ml @ git+https://example.com/ml.git\nnumpy>=1\n"
        "gunicorn==23\nlabel-studio-sdk\n"
    )
    done = run("create", "new", "--from", source / "chooser.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    new = tmp_path / "new"
    assert (new / "model.py").read_text() == imports + MODEL
    assert 'create_service("model:Chooser", name="new")' in (
        (new / "service.py").read_text()
    )
    assert files(new) == FILES | {"words.py", "deep.py"}
    assert (new / "parts" / "more.py").read_text() == "x = 1\n"
    assert (new / "label_config.xml").read_text() == LABEL_CONFIG
    requirements = (new / "requirements.txt").read_text().splitlines()
    assert requirements[2:] == ["numpy>=1", "label-studio-sdk"]
    passed = own_tests(new)
    assert passed.returncode == 0, passed.stdout
    assert "3 passed" in passed.stdout


def test_from_a_legacy_directory_makes_a_backend_that_passes(tmp_path: Path) -> None:
    legacy = tmp_path / "legacy"
    shutil.copytree(LEGACY, legacy, ignore=shutil.ignore_patterns("__pycache__"))
    (legacy / "label_config.xml").write_text(LEGACY_CONFIG)
    done = run("create", "new", "--script", legacy, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    passed = own_tests(tmp_path / "new")
    assert passed.returncode == 0, passed.stdout
    assert (tmp_path / "new" / "requirements.txt").read_text().endswith(".whl\n")


def test_from_reports_a_missing_label_config(tmp_path: Path) -> None:
    source = write(tmp_path / "old", model=MODEL)
    done = run(
        "create", "new", "--from", f"{source / 'model.py'}:Chooser", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "There is no label_config.xml beside model.py: save your" in done.stdout


def test_from_its_own_directory_keeps_the_model(tmp_path: Path) -> None:
    write(tmp_path, model="import words\n" + MODEL, words="kept = 1\n")
    done = run("create", ".", "--from", "model.py", "--force", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model.py").read_text() == "import words\n" + MODEL
    assert (tmp_path / "words.py").read_text() == "kept = 1\n"
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(requirements.read_text() + "numpy\n")
    (tmp_path / "label_config.xml").write_text(LABEL_CONFIG)
    done = run("create", ".", "--from", "model.py", "--force", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert requirements.read_text().count("lsml_bento-") == 1
    assert requirements.read_text().endswith(".whl\nnumpy\n")
    assert (tmp_path / "label_config.xml").read_text() == LABEL_CONFIG


@pytest.mark.parametrize(
    ("service", "name"),
    [
        (
            'svc = create_service("model:Old", name="mood_2", max_batch_size=8)',
            "mood-2",
        ),
        ('svc = create_service("model:MoodTagger")', "mood-tagger"),
        ("svc = create_service(some_class)", "backend"),
    ],
)
def test_a_service_that_is_there_keeps_its_name(
    tmp_path: Path, service: str, name: str
) -> None:
    directory = tmp_path / "backend"
    directory.mkdir()
    write(directory, model=MODEL)
    service = f"from lsml_bento import create_service\n\n{service}\n"
    (directory / "service.py").write_text(service)

    done = run("create", ".", "--from", "model.py", "--force", cwd=directory)

    assert done.returncode == 0, done.stderr
    assert f'name="{name}")' in (directory / "service.py").read_text()
    assert f'name: "{name}"' in (directory / "bentofile.yaml").read_text()
    assert f"--name {name} --force" in (directory / "README.md").read_text()


def test_a_requirement_that_only_looks_like_ours_is_kept(tmp_path: Path) -> None:
    write(tmp_path, model=MODEL)
    (tmp_path / "requirements.txt").write_text(
        "lsml-bento-plugins\nlsml_bento[torch]==0.1\ngunicorn>=2\nsix\n"
        "./wheels/lsml_bento-0.0.1-py3-none-any.whl\n"
    )

    done = run("create", "new", "--from", "model.py", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "new" / "requirements.txt").read_text().splitlines()
    assert lines[-2:] == ["lsml-bento-plugins", "six"]


def test_from_a_file_of_functions_serves_the_module(tmp_path: Path) -> None:
    functions = (
        "from lsml_bento import predict_fn\n\n\n"
        "@predict_fn\ndef say_nothing(tasks, context, helper):\n    return []\n"
    )
    source = write(tmp_path / "old", functions=functions)
    done = run("create", "new", "--from", source / "functions.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'create_service("model", name="new")' in (
        (tmp_path / "new" / "service.py").read_text()
    )


TWO = "class A(LabelStudioMLBase): ...\n\n\nclass B(LabelStudioMLBase): ...\n"


@pytest.mark.parametrize(
    ("text", "wanted", "sentence"),
    [
        (
            TWO,
            "",
            "has 2 subclasses of LabelStudioMLBase: A, B; select one with --from",
        ),
        (TWO, ":C", "has no class C; its classes: A, B"),
        (
            "x = 1\n",
            "",
            "has 0 subclasses of LabelStudioMLBase; select one with --from",
        ),
        ("x = 1\nclass A(\n", "", "model.py, line 2, is not valid Python: "),
        ("x = 1\0", "", "model.py is not valid Python: "),
        (
            "import os\nfrom .a import b\n",
            "",
            "model.py, line 2, has a relative import",
        ),
        ("import service\n" + MODEL, "", "imports service.py from its directory"),
    ],
)
def test_from_says_what_is_wrong_and_writes_nothing(
    tmp_path: Path, text: str, wanted: str, sentence: str
) -> None:
    source = write(tmp_path / "old", model=text, service="")
    done = run("create", "new", "--from", f"{source}/model.py{wanted}", cwd=tmp_path)
    assert sentence in refused(done)
    assert not (tmp_path / "new").exists()


def test_from_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    sentence = refused(run("create", "new", "--from", "gone.py:A", cwd=tmp_path))
    assert sentence == (
        "--from gone.py:A: no such file: gone.py; write PATH or PATH:CLASS"
    )
