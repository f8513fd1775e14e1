"""How devices are dealt out, and what an image is built by.

What is served is tested in ``tests/e2e/test_bentoml``.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from lsml_bento.adapters.bentoml_service import share
from lsml_bento.adapters.bentoml_service.pins import contradiction
from tests.e2e.pins import needed
from tests.e2e.processes import ROOT

# BentoML's, when what builds bentos is imported: each test does that by itself.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize(
    ("visible", "workers", "shares"),
    [
        ("0,1", 2, ["0", "1"]),
        ("0,1,2,3", 2, ["0,2", "1,3"]),
        ("GPU-a,GPU-b", 1, ["GPU-a,GPU-b"]),
        ("0,1", 3, ["0", "1", "0"]),
        ("5", 2, ["5", "5"]),
    ],
)
def test_workers_share_the_devices_evenly(
    visible: str, workers: int, shares: list[str]
) -> None:
    assert [share(visible, index, workers) for index in range(workers)] == shares


def frozen(
    directory: Path, *requirements: str, **given: str
) -> tuple[list[str], dict[str, str]]:
    """What a build makes of an image here: its Dockerfile, and bento.yaml's variables.

    Args:
        directory: of the bento.
        requirements: lines of its requirements file.
        given: variables in its bentofile.yaml.
    """
    from bentoml._internal.bento.build_config import BentoEnvSchema  # noqa: PLC0415

    from lsml_bento.adapters.bentoml_service.image import (  # noqa: PLC0415
        backend_image,
    )

    (directory / "src" / "wheels").mkdir(parents=True)
    image: Any = backend_image().python_packages("huey", *requirements)
    image.base_image, image.lock_python_packages = "python:3.11-slim", False
    envs = [BentoEnvSchema(*pair) for pair in given.items()]
    image.freeze(directory, envs)
    dockerfile = directory / "env" / "docker" / "Dockerfile"
    lines = dockerfile.read_text().splitlines()
    return lines, {env.name: env.value for env in envs}


def test_an_image_keeps_state_and_versions_in_its_volume(tmp_path: Path) -> None:
    lines, variables = frozen(tmp_path, UV_TORCH_BACKEND="cpu")

    assert "ARG LSML_HOME=/data" in lines
    assert "ENV LSML_HOME=$LSML_HOME" in lines
    assert "ARG LSML_MODEL_STORE=/data/models" in lines
    # `bentoml containerize` writes the Dockerfile once more, by these.
    assert variables == {
        "UV_TORCH_BACKEND": "cpu",
        "LSML_HOME": "/data",
        "LSML_MODEL_STORE": "/data/models",
    }


def test_where_a_bento_s_own_variables_say_state_is_it_stays(tmp_path: Path) -> None:
    lines, variables = frozen(tmp_path, LSML_HOME="/state")

    assert [line for line in lines if "ARG LSML_HOME" in line] == [
        "ARG LSML_HOME=/state"
    ]
    assert variables == {"LSML_HOME": "/state", "LSML_MODEL_STORE": "/data/models"}


@pytest.mark.parametrize(
    ("requirement", "names_ours"),
    [
        ("lsml-bento", True),
        ("lsml_bento[torch]==0.1.0", True),
        ("./wheels/lsml_bento-0.1.0-py3-none-any.whl", True),
        ("wheels/lsml_bento-0.1.0-py3-none-any.whl", True),
        ("git+https://example.com/a/lsml-bento.git@main", True),
        ("lsml-bento @ git+https://example.com/a/fork", True),
        ("-e ../lsml-bento", True),
        ("lsml-bento-plugins", False),
        ("lsml_bento_plugins-1.0-py3-none-any.whl", False),
        ("my-lsml-bento==1", False),
        ("six # lsml-bento needs it", False),
        ("# lsml-bento comes along", False),
    ],
)
def test_a_wheel_comes_along_unless_a_requirement_names_lsml_bento(
    requirement: str, names_ours: bool
) -> None:
    from lsml_bento.adapters.bentoml_service.image import (  # noqa: PLC0415
        names_lsml_bento,
    )

    assert names_lsml_bento(f"six\n{requirement}\nseven\n") is names_ours


def test_without_such_a_requirement_the_image_installs_the_wheel(
    tmp_path: Path,
) -> None:
    frozen(tmp_path, "lsml-bento-plugins==1")

    [wheel] = (tmp_path / "src" / "wheels").glob("lsml_bento-*.whl")
    installed = (tmp_path / "env" / "python" / "requirements.txt").read_text()
    assert f"./wheels/{wheel.name}" in installed.splitlines()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("bentoml==1.2.3", "bentoml==1.2.3 excludes bentoml "),
        ("BentoML[grpc] < 1.3", "which builds this bento"),
        ("lsml_bento==9", "lsml_bento==9 excludes lsml-bento "),
        ("huey==2.0 # old", "huey==2.0 contradicts lsml-bento "),
        ("cattrs==24.1", "which needs cattrs<23.2.0,>=22.1.0"),
        # What a package needs that is pinned to the version installed here.
        (f"anyio=={version('anyio')}\nidna==2.0", "which needs idna>=2.8"),
    ],
)
def test_requirements_that_contradict_each_other_are_refused_by_the_build(
    tmp_path: Path, line: str, reason: str
) -> None:
    from bentoml.exceptions import BentoMLException  # noqa: PLC0415

    with pytest.raises(
        BentoMLException, match=r"^The image cannot be built: "
    ) as found:
        frozen(tmp_path, line)

    assert reason in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "line",
    [
        f"bentoml=={version('bentoml')}",
        f"anyio=={version('anyio')}",
        "lsml-bento[torch]",
        "huey==3.*",
        "huey==2.0; sys_platform == 'win32'",
        "not-installed-here==1.0",
        "# huey==2.0",
        "--index-url https://example.com/simple",
    ],
)
def test_requirements_that_can_be_fulfilled_pass(line: str) -> None:
    assert contradiction(f"{line}\n") is None


@pytest.mark.parametrize("bento", ["pytorch_ner", "gpt2"])
def test_our_bentos_pin_nothing_that_bentoml_brings(bento: str) -> None:
    text = (ROOT / "bentos" / bento / "requirements.txt").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    names = {canonicalize_name(line.partition("==")[0]) for line in lines}

    assert not names & {"bentoml", *needed("bentoml", frozenset())}
