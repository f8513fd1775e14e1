"""Every environment variable in files for users is read by something."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.manifests import DEPLOY, ROOT
from tests.variables import environment_names

TEMPLATE = ROOT / "lsml_bento" / "template"
FILES = sorted(
    path
    for path in (
        *DEPLOY.rglob("*"),
        *TEMPLATE.iterdir(),
        *(ROOT / "bentos").rglob("*"),
        *(ROOT / "examples").glob("*/docker-compose.yml"),
        *(ROOT / "examples").glob("*/README.md"),
        *(ROOT / "examples").glob("Dockerfile*"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "README.md",
        ROOT / "bentofile.yaml",
    )
    if path.is_file() and path.suffix not in {".pyc", ".xml"}
)

OTHERS = {
    "AWS_ACCESS_KEY_ID": "botocore's, for s3:// in LSML_MODEL_REPO",
    "AWS_SECRET_ACCESS_KEY": "botocore's, for s3:// in LSML_MODEL_REPO",
    "BENTOML_DO_NOT_TRACK": "BentoML's: no usage reports",
    "BENTOML_HOME": "BentoML's: where bentos and models are",
    "BENTOML_PORT": "BentoML's: what a Service named bentoml would set",
    "CUDA_VISIBLE_DEVICES": "CUDA's",
    "EXAMPLE": "a build argument of examples/Dockerfile",
    "EXTRAS": "a build argument of examples/Dockerfile",
    "FSSPEC_S3_ENDPOINT_URL": "fsspec's: a store that is not AWS's",
    "GPT2_MODEL": "the gpt2 example's: which model it loads",
    "HF_HOME": "transformers': where downloads are kept",
    "IMAGE": "compose.yaml's own: the image of server and worker",
    "LABEL_STUDIO_ML_BACKEND_V2": "label_studio_ml's, and no longer read by anybody",
    "LSML_SECRET_KEY": "a former setting: it has no effect, as the log says",
    "ML_BLOCK_LOCAL_IP": "Label Studio's: whether it calls private addresses",
    "OMP_NUM_THREADS": "OpenMP's: threads that torch computes with",
    "PUBLISH": "compose.yaml's own: the address that the server listens on",
    "REDISCLI_AUTH": "redis-cli's: its password",
    "REDIS_PASSWORD": "of the Redis that deploy/ starts; REDIS_URL has it too",
    "REDIS_PORT": "what a Service named redis would set",
    "SSRF_PROTECTION_ENABLED": "Label Studio's: whether it calls private addresses",
    "UV_TORCH_BACKEND": "uv's: which torch it installs",
}
"""Variables that are no settings, with their owners."""

_PREFIXES = (
    *("LSML", "LABEL_STUDIO", "BASIC_AUTH", "REDIS", "BENTOML"),
    *("AWS", "CUDA", "FSSPEC", "HF", "UV"),
)
_NAME = r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*"
_SHOWN = (
    re.compile(rf"(?<![\w.&?-])({_NAME})="),  # set, as in a shell
    re.compile(rf"\$[({{]?({_NAME})"),  # read, as in a shell
    re.compile(rf"^ARG ({_NAME})", re.MULTILINE),
    # Anything that looks like a variable.
    re.compile(rf"\b((?:{'|'.join(_PREFIXES)})_{_NAME})\b"),
)


def shown(text: str) -> set[str]:
    """The names of variables in a text."""
    return {name for pattern in _SHOWN for name in pattern.findall(text)}


def declared(value: Any) -> Iterator[str]:
    """The names under the YAML keys that hold variables."""
    if isinstance(value, list):
        for entry in value:
            yield from declared(entry)
    elif isinstance(value, dict):
        for key, below in value.items():
            if key in {"environment", "stringData", "data"} and isinstance(below, dict):
                yield from map(str, below)
            elif key in {"env", "envs"} and isinstance(below, list):
                yield from (entry["name"] for entry in below)
            yield from declared(below)


def names_in(path: Path) -> set[str]:
    text = path.read_text(encoding="utf-8")
    found = shown(text)
    if path.suffix in {".yaml", ".yml"}:
        found.update(
            name for each in yaml.safe_load_all(text) for name in declared(each)
        )
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_name_is_a_setting_or_of_another_program(path: Path) -> None:
    unknown = names_in(path) - environment_names().keys() - OTHERS.keys()

    assert unknown == set(), (
        f"{path.relative_to(ROOT)} names what no setting reads: {sorted(unknown)}; "
        "correct it, or say in OTHERS whose it is"
    )


def test_the_files_show_variables_and_the_list_of_others_is_current() -> None:
    found = {name for path in FILES for name in names_in(path)}

    assert found >= {"LSML_HOME", "REDIS_URL", "LSML_WORKER", "WORKERS"}
    assert OTHERS.keys() - found == set()
    assert OTHERS.keys() & environment_names().keys() == set()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("LSML_MODELREPO=s3://x", "LSML_MODELREPO"),
        ("    image: ${IMAGES:-x}", "IMAGES"),
        ("set `LSML_HOMES` to a directory", "LSML_HOMES"),
        ("ARG TORCHES", "TORCHES"),
        ("redis://:$(REDIS_PASS)@redis", "REDIS_PASS"),
    ],
)
def test_a_misspelled_name_is_found(text: str, name: str) -> None:
    assert name in shown(text)
    assert name not in environment_names().keys() | OTHERS.keys()


def test_names_under_yaml_keys_are_found() -> None:
    read = yaml.safe_load(
        """
        services: {x: {environment: {ONE: 1}}}
        spec: {env: [{name: TWO, value: v}], envs: [{name: THREE}]}
        stringData: {FOUR: x}
        """
    )
    assert set(declared(read)) == {"ONE", "TWO", "THREE", "FOUR"}
