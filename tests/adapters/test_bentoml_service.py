"""How devices are dealt out, and what an image is built by.

What is served is tested in ``tests/e2e/test_bentoml``.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from lsml_bento.adapters.bentoml_service import share
from lsml_bento.adapters.bentoml_service.options import gpus_of
from lsml_bento.adapters.bentoml_service.pins import contradiction
from tests.doubles import Echo
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
    assert contradiction(text) is None


# The options of ``@bentoml.service``


def service(**options: Any) -> Any:
    """The service of a class, with a user's options."""
    from lsml_bento import create_service  # noqa: PLC0415

    return create_service(Echo, name="echo", directory=ROOT / "tests", **options)


def test_options_of_bentoml_reach_the_service_with_what_a_backend_needs() -> None:
    found = service(
        resources={"cpu": "2", "memory": "4Gi"},
        traffic={"max_concurrency": 64},
        envs=[{"name": "HF_HOME", "value": "/data/hf"}],
        labels={"team": "nlp"},
        description="Echoes",
        http={"port": 3100, "cors": {"enabled": True}},
        metrics={"enabled": True, "namespace": "echo"},
        monitoring={"enabled": False},
        logging={"access": {"skip_paths": ["/health"]}},
        gpus=2,
    )

    assert found.config["resources"] == {"cpu": "2", "memory": "4Gi", "gpu": 2}
    assert found.config["traffic"] == {"timeout": 120, "max_concurrency": 64}
    assert found.config["logging"] == {
        "access": {"enabled": False, "skip_paths": ["/health"]}
    }
    assert found.config["http"] == {"port": 3100, "cors": {"enabled": True}}
    assert found.config["metrics"] == {"enabled": True, "namespace": "echo"}
    assert found.config["monitoring"] == {"enabled": False}
    assert found.config["tracing"] == {"excluded_urls": ".*"}
    assert [(env.name, env.value) for env in found.envs] == [("HF_HOME", "/data/hf")]
    assert (found.labels, found.description) == ({"team": "nlp"}, "Echoes")
    assert service(traffic={"timeout": 300}).config["traffic"] == {"timeout": 300}
    assert service(tracing={"sample_rate": 1.0}).config["tracing"] == {
        "sample_rate": 1.0
    }


def test_gpus_among_the_resources_are_shared_out_as_those_of_gpus() -> None:
    assert gpus_of({"resources": {"gpu": 2}}) == 2
    assert gpus_of({"resources": {"cpu": 1}}) == gpus_of({}) == 0
    assert service(resources={"gpu": 2}).config["resources"] == {"gpu": 2}


def test_a_user_s_image_also_installs_lsml_bento_and_keeps_state(
    tmp_path: Path,
) -> None:
    from bentoml.images import Image  # noqa: PLC0415

    given = Image("python:3.12-slim", lock_python_packages=False)
    given.system_packages("ffmpeg").python_packages("huey").run("echo done")
    image = service(image=given).image
    (tmp_path / "src" / "wheels").mkdir(parents=True)
    image.freeze(tmp_path, [])

    lines = (tmp_path / "env" / "docker" / "Dockerfile").read_text()
    assert "FROM python:3.12-slim" in lines
    assert "ffmpeg" in lines
    assert "echo done" in lines
    assert "install -d -o 1034 -g 1034 -m 0775 /data" in lines
    installed = (tmp_path / "env" / "python" / "requirements.txt").read_text()
    assert "huey\n" in installed
    assert "./wheels/lsml_bento-" in installed


@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ({"resource": {}}, TypeError, "no option 'resource': BentoML's options are "),
        ({"cmd": ["x"]}, TypeError, "'cmd': a backend is the server itself"),
        ({"path_prefix": "/ml"}, TypeError, "'path_prefix': set LSML_ROOT_PATH"),
        ({"traffic": {"timeout": -1}}, ValueError, "does not accept traffic.timeout: "),
        ({"resources": {"gpu": "many"}}, ValueError, "does not accept resources.gpu: "),
    ],
)
def test_an_option_that_bentoml_does_not_have_is_refused_in_one_sentence(
    options: dict[str, Any], error: type[Exception], reason: str
) -> None:
    with pytest.raises(error) as found:
        service(**options)

    assert reason in str(found.value)
    assert "\n" not in str(found.value)
