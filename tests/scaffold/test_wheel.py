"""The wheel of the running version: installed, it is the package again."""

import hashlib
import subprocess
import sys
import venv
import zipfile
from base64 import urlsafe_b64encode
from importlib.metadata import version
from pathlib import Path

import pytest

from lsml_bento.scaffold.wheel import wheel_name, write_wheel
from tests.cli.commands import call, environ
from tests.e2e.processes import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wheel(tmp_path_factory.mktemp("wheel") / "wheels")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it, and its dependencies beside it."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", str(home), "install", "--quiet"]
    command = [*pip, "--no-deps", "--no-index", str(wheel)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    [purelib] = home.glob("lib/python*/site-packages")
    dependencies = [path for path in sys.path if path.endswith("site-packages")]
    (purelib / "dependencies.pth").write_text("\n".join(dependencies))
    return home


def test_every_member_is_recorded_with_its_hash(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [record] = [name for name in names if name.endswith("/RECORD")]
        lines = archive.read(record).decode().splitlines()
        assert [line.split(",")[0] for line in lines] == names
        for line in lines[:-1]:
            name, digest, size = line.split(",")
            data = archive.read(name)
            hashed = urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
            assert digest == f"sha256={hashed.decode()}"
            assert int(size) == len(data)


def test_it_holds_the_package_and_nothing_that_running_left(wheel: Path) -> None:
    assert wheel.name == wheel_name()
    assert wheel.name == f"lsml_bento-{version('lsml-bento')}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = ROOT / "lsml_bento"
    sources = {str(path.relative_to(ROOT)) for path in package.rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources
    assert {"lsml_bento/py.typed", "lsml_bento/template/dockerignore"} <= names
    assert not any("__pycache__" in name or ".lsml/" in name for name in names)


def test_it_installs_and_its_command_runs(installed: Path) -> None:
    tool = installed / "bin" / "lsml-bento"
    done = call([tool, "--version"])
    assert done.stdout.startswith(f"lsml-bento {version('lsml-bento')}"), done.stderr
    where = call(
        [
            installed / "bin" / "python",
            "-c",
            "import lsml_bento as x; print(x.__file__)",
        ],
        cwd=installed,
    )
    assert where.stdout.startswith(str(installed)), where.stderr


def test_packed_again_where_it_is_installed_it_is_the_same(
    installed: Path, wheel: Path, tmp_path: Path
) -> None:
    done = call([installed / "bin" / "lsml-bento", "create", "again"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = tmp_path / "again" / "wheels" / wheel.name
    assert again.read_bytes() == wheel.read_bytes()


def test_without_an_installation_there_is_nothing_to_pack(tmp_path: Path) -> None:
    code = "from lsml_bento.scaffold.wheel import wheel_name; wheel_name()"
    env = environ(PYTHONPATH=str(ROOT))  # and with -S none of the environment's
    done = call([sys.executable, "-S", "-c", code], cwd=tmp_path, env=env)
    assert "lsml-bento is running without being installed" in done.stderr
