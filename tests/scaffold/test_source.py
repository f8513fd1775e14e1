"""What ``create --from`` copies of an existing backend, and what it lists instead."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import lsml_bento
from lsml_bento.scaffold.create import create_backend, source_of
from lsml_bento.scaffold.packages import LeftOut, read_packages
from tests.cli.commands import MODEL, call, write


def put(directory: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return directory


def made(source: Path, directory: Path) -> dict[str, str]:
    """Create a backend, and return why each thing was left out."""
    return dict(create_backend(directory, source=source_of(str(source))).left_out)


def names(directory: Path) -> set[str]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix() for path in files}


# Modules and data


def test_what_imported_packages_import_comes_along_and_imports(tmp_path: Path) -> None:
    old = write(tmp_path / "old", model="from controls.base import BOX\n" + MODEL)
    write(old, deep="from leaf import LEAF\n", leaf="LEAF = 1\n", loose="")
    put(old, {"controls/__init__.py": "", "tools/a.py": "import deep\nA = 1\n"})
    put(old, {"controls/base.py": "from tools import a\nfrom . import box as BOX\n"})
    put(old, {"controls/box.py": "from .deeper import x\n"})
    put(old, {"controls/deeper/__init__.py": "x = 1\n"})
    put(old, {"controls/templates/t.py": "{{ not python }}"})

    why = made(old, tmp_path / "new")
    old.rename(tmp_path / "gone")

    command: list[object] = [sys.executable, "-c", "import model; model.Chooser()"]
    done = call(command, cwd=tmp_path / "new")
    assert done.returncode == 0, done.stderr
    assert why == {"loose.py": "nothing imports it"}


def test_data_files_come_along(tmp_path: Path) -> None:
    old = write(tmp_path / "old", model=MODEL)
    data = {"labels.txt": "a", "prompts/en/one.md": "b", "weights/w.pt": "c"}
    put(old, {**data, "prompts/__pycache__/a.pyc": "", ".git/HEAD": "", ".env": "K=1"})
    put(old, {"README.md": "", "_wsgi.py": "", "tests/car.jpg": "", "sub/model.py": ""})
    put(old, {"venv/pyvenv.cfg": ""})
    (old / "linked").symlink_to(old / "prompts")

    why = made(old, old / "new")

    assert set(data) <= names(old / "new")
    assert (old / "new" / "prompts/en/one.md").read_text() == "b"
    there = {path.name for path in (old / "new").iterdir()}
    assert not {"venv", "tests", "sub", "new", ".git", ".env"} & there
    assert why == {
        ".env": "it may hold secrets",
        "README.md": "the new backend has its own",
        "_wsgi.py": "service.py replaces it",
        "linked/": "a link to a directory: copy it yourself",
        "sub/": "a project of its own",
        "tests/": "a test",
        "venv/": "a virtual environment",
    }


def test_code_that_a_string_names_comes_along(tmp_path: Path) -> None:
    old = write(tmp_path / "old", model='import sys\nsys.path.append("src")\n' + MODEL)
    put(old, {"src/a.py": "", "other/b.py": ""})

    why = made(old, tmp_path / "new")

    assert (tmp_path / "new" / "src" / "a.py").is_file()
    assert why == {"other/": "nothing imports it"}


def test_data_above_the_limit_is_listed_and_the_smallest_is_copied(
    tmp_path: Path,
) -> None:
    old = write(tmp_path / "old", model="import parts\n" + MODEL)
    put(old, {"labels.txt": "a" * 10, "big.bin": "b" * 200, "many/a": "", "many/b": ""})
    put(old, {"parts/__init__.py": "", "parts/weights.bin": "c" * 150})

    found = source_of(str(old)).copies(tmp_path / "new", (), max_bytes=100)

    copied = {path.as_posix() for path in found.files}
    assert copied == {"parts/__init__.py", "labels.txt", "many/a", "many/b"}
    assert found.left_out == [
        LeftOut("parts/", "0.0 MiB: too large, copy it yourself"),
        LeftOut("big.bin", "0.0 MiB: too large, copy it yourself"),
    ]


def test_the_data_of_a_home_directory_stays_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = write(tmp_path / "home", model="import words\n" + MODEL, words="")
    put(home, {"taxes.pdf": ""})
    monkeypatch.setenv("HOME", str(home))

    why = made(home, tmp_path / "new")

    assert {"words.py"} <= names(tmp_path / "new")
    assert why == {str(home): "data files of a home directory are not copied"}


# Requirements


REQUIREMENTS = """\
--extra-index-url https://user:s3cret@pypi.example.com/simple
-r requirements-base.txt
-c limits.txt
-e ./mypkg
./wheels/foo-1.0-py3-none-any.whl  # ours
../shared[all] ; python_version > "3.8"
label-studio-ml @ git+https://user:s3cret@github.com/x/y.git@master
gunicorn==22.0.0
foo-private-dep>=1 ; python_version > "3.8"
numpy<2  # pinned
-r gone.txt
-e ./missing
tool @ git+https://example.com/tool.git
"""


def test_requirements_bring_along_what_they_name(tmp_path: Path) -> None:
    old = write(tmp_path / "old", model=MODEL)
    put(old, {"requirements.txt": REQUIREMENTS, "limits.txt": "six<2\n"})
    put(old, {"requirements-base.txt": "pillow \\\n  ==10.0\n-r requirements.txt\n"})
    put(old, {"mypkg/pyproject.toml": "", "wheels/foo-1.0-py3-none-any.whl": "wheel"})
    put(tmp_path, {"shared/setup.py": "", "shared/.git/HEAD": ""})

    why = made(old, tmp_path / "new")

    new = tmp_path / "new"
    assert (new / "requirements.txt").read_text().splitlines()[2:] == [
        "--extra-index-url https://user:s3cret@pypi.example.com/simple",
        "pillow    ==10.0",
        "-c ./limits.txt",
        "-e ./mypkg",
        "./wheels/foo-1.0-py3-none-any.whl  # ours",
        './packages/shared[all] ; python_version > "3.8"',
        'foo-private-dep>=1 ; python_version > "3.8"',
        "numpy<2  # pinned",
        "tool @ git+https://example.com/tool.git",
    ]
    assert {"limits.txt", "mypkg/pyproject.toml", "packages/shared/setup.py"} <= (
        names(new)
    )
    assert (new / "wheels" / "foo-1.0-py3-none-any.whl").read_text() == "wheel"
    assert not (new / "packages/shared/.git").exists()
    assert why == {
        "-r gone.txt": "no such file",
        "-e ./missing": "no such file",
        "gunicorn==22.0.0": "lsml-bento replaces it",
        "label-studio-ml @ git+https://...@github.com/x/y.git@master": (
            "lsml-bento replaces it"
        ),
    }
    dockerfile = (new / "Dockerfile").read_text()
    assert (
        "COPY wheels ./wheels\nCOPY limits.txt ./limits.txt\nCOPY mypkg ./mypkg\n"
        "COPY packages/shared ./packages/shared\nCOPY requirements.txt ./\n"
    ) in dockerfile
    assert "--no-install-recommends git \\" in dockerfile  # pip needs it for git+


def test_the_directory_itself_is_no_requirement(tmp_path: Path) -> None:
    put(tmp_path, {"requirements.txt": "-e .\n./\n"})

    found = read_packages(tmp_path)

    assert found.lines == []
    assert found.local == {}
    why = "it names the directory itself, whose modules are copied"
    assert found.left_out == [LeftOut("-e .", why), LeftOut("./", why)]


def test_a_file_that_powershell_wrote_is_read(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_bytes("six==1\r\n".encode("utf-16"))

    assert read_packages(tmp_path).lines == ["six==1"]


# The system's packages


DOCKERFILE = """\
# syntax=docker/dockerfile:1
FROM nvidia/cuda:12-runtime AS base
ENV PYTHONUNBUFFERED=1 \\
    TOKEN=s3cret \\
    THREADS=8
ENV MODEL_ROOT /app/models
RUN --mount=type=cache,target=/var/cache/apt \\
    set -eux; \\
    apt-get update; \\
    # for opencv
    DEBIAN_FRONTEND=noninteractive apt install --no-install-recommends -y \\
        git libgl1-mesa-glx ffmpeg=7:4.3 -t stable python3-pip $EXTRA; \\
    apt-get autoremove -y
RUN apt-get -y install wget git && rm -rf /var/lib/apt/lists/*
COPY requirements-base.txt .
RUN pip install --upgrade pip && pip install -r requirements-base.txt
RUN pip3 install torch==2.1 gunicorn
RUN if [ "$TEST_ENV" = "true" ]; then pip install -r requirements-test.txt; fi
RUN wget -q https://example.com/w.pth
COPY --from=base /x /y
FROM base
FROM python:${VERSION}-slim
CMD gunicorn _wsgi:app
"""


def test_the_image_installs_the_system_s_packages_of_the_old_one(
    tmp_path: Path,
) -> None:
    old = write(tmp_path / "old", model=MODEL)
    put(old, {"Dockerfile": DOCKERFILE, "requirements-base.txt": "gunicorn\npillow\n"})
    put(old, {"requirements-test.txt": "pytest\n", "requirements.txt": "six\n"})

    why = made(old, tmp_path / "new")

    dockerfile = (tmp_path / "new" / "Dockerfile").read_text()
    assert dockerfile.startswith(
        "FROM python:3.12-slim\n\nRUN apt-get update \\\n    && apt-get install --yes "
        "--no-install-recommends git libgl1 ffmpeg wget \\\n"
    )
    assert (
        (tmp_path / "new" / "bentofile.yaml")
        .read_text()
        .endswith(
            'docker:\n  system_packages:\n    - "git"\n    - "libgl1"\n    - "ffmpeg"\n'
            '    - "wget"\n'
        )
    )
    lines = (tmp_path / "new" / "requirements.txt").read_text().splitlines()
    assert lines[2:] == ["six", "pillow"]
    add = "add it to the new Dockerfile if the model needs it"
    assert why == {
        "FROM nvidia/cuda:12-runtime AS base": "the new image is python:3.12-slim",
        "ENV TOKEN": "set it where the backend runs",
        "ENV MODEL_ROOT": "set it where the backend runs",
        "apt package python3-pip": "python:3.12-slim brings Python",
        "apt package $EXTRA": "it is not a plain name",
        "RUN pip3 install torch==2.1 gunicorn": "add its packages to requirements.txt",
        "RUN wget -q https://example.com/w.pth": add,
        "COPY --from=base /x /y": add,
        "gunicorn": "lsml-bento replaces it",
    }


def test_without_packages_the_image_is_the_template_s(tmp_path: Path) -> None:
    old = write(tmp_path / "old", model=MODEL)

    assert made(old, tmp_path / "new") == {}

    template = Path(lsml_bento.__file__).parent / "template" / "Dockerfile"
    assert (tmp_path / "new" / "Dockerfile").read_text() == template.read_text()


def test_a_created_backend_is_a_source_too(tmp_path: Path) -> None:
    create_backend(tmp_path / "first")
    first = tmp_path / "first" / "Dockerfile"
    apt = "\nRUN apt-get update && apt-get install -y ffmpeg\n"
    first.write_text(first.read_text().replace("\nWORKDIR", f"{apt}WORKDIR"))

    why = made(tmp_path / "first", tmp_path / "second")

    assert set(why.values()) == {"the new backend has its own"}
    dockerfile = (tmp_path / "second" / "Dockerfile").read_text()
    assert "--no-install-recommends ffmpeg \\" in dockerfile
    assert "service.py" in why
    assert len(list((tmp_path / "second" / "wheels").iterdir())) == 1
