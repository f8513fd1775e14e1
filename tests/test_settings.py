"""The environment, read once."""

from __future__ import annotations

from pathlib import Path

import pytest

from lsml_bento.errors import SettingsError
from lsml_bento.settings import Settings
from tests.variables import environment_names


def test_an_empty_environment_has_defaults() -> None:
    settings = Settings.from_env({})

    assert settings.basic_auth is None
    assert settings.log_level == "INFO"
    assert (settings.port, settings.max_models, settings.queue_size) == (
        9090,
        8,
        10_000,
    )
    assert settings.predict_deadline_s == 90
    assert settings.workers is settings.threads is settings.max_batch_size is None


def test_every_variable_reaches_its_field() -> None:
    settings = Settings.from_env(
        {
            "LABEL_STUDIO_URL": "http://ls:8080/sub",
            "LABEL_STUDIO_API_KEY": "key",
            "BASIC_AUTH_USER": "user",
            "BASIC_AUTH_PASS": "pass",
            "LOG_LEVEL": "debug",
            "LSML_LOG_FORMAT": "JSON",
            "MODEL_DIR": "/models",
            "PORT": "9091",
            "WORKERS": "2",
            "THREADS": "3",
            "LSML_HOME": "/home",
            "LSML_MAX_BATCH_SIZE": "4",
            "LSML_MAX_MODELS": "5",
            "LSML_QUEUE_SIZE": "6",
            "LSML_PREDICT_DEADLINE_S": "7.5",
            "LSML_MAX_BODY_MIB": "0.5",
            "LSML_ROOT_PATH": "a/b/",
            "LSML_LOCAL_FILES_ROOT": "/files",
            "LSML_ACCESS_LOG": "true",
        }
    )

    assert settings.label_studio_url == "http://ls:8080/sub"
    assert settings.label_studio_api_key is not None
    assert settings.label_studio_api_key.get_secret_value() == "key"
    assert settings.basic_auth == ("user", "pass")
    assert (settings.log_level, settings.log_format) == ("DEBUG", "json")
    assert settings.model_dir == Path("/models")
    assert (settings.port, settings.workers, settings.threads) == (9091, 2, 3)
    assert settings.home == Path("/home")
    assert settings.max_batch_size == 4
    assert (settings.max_models, settings.queue_size) == (5, 6)
    assert (settings.predict_deadline_s, settings.max_body_mib) == (7.5, 0.5)
    assert settings.root_path == "/a/b"
    assert settings.local_files_root == Path("/files")
    assert settings.access_log is True


@pytest.mark.parametrize(
    ("alias", "field"),
    [
        ("LABEL_STUDIO_HOST", "label_studio_url"),
        ("LABEL_STUDIO_ACCESS_TOKEN", "label_studio_api_key"),
        ("LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT", "local_files_root"),
        ("LOCAL_FILES_DOCUMENT_ROOT", "local_files_root"),
    ],
)
def test_alias_names_are_accepted(alias: str, field: str) -> None:
    assert getattr(Settings.from_env({alias: "x"}), field) is not None
    assert alias in environment_names()


def test_the_first_name_wins_over_its_alias() -> None:
    settings = Settings.from_env({"LABEL_STUDIO_HOST": "b", "LABEL_STUDIO_URL": "a"})

    assert settings.label_studio_url == "a"


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_an_empty_variable_counts_as_unset(empty: str) -> None:
    environ = dict.fromkeys(environment_names(), empty)

    assert Settings.from_env(environ) == Settings.from_env({})


@pytest.mark.parametrize("root", ["", "/", "//"])
def test_a_prefix_of_slashes_is_empty(root: str) -> None:
    assert Settings.from_env({"LSML_ROOT_PATH": root}).root_path == ""


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("PORT", "http", "Input should be a valid integer"),
        ("PORT", "70000", "Input should be less than or equal to 65535"),
        ("LSML_MAX_MODELS", "0", "Input should be greater than or equal to 1"),
        ("LSML_MAX_BODY_MIB", "inf", "Input should be a finite number"),
        ("LSML_PREDICT_DEADLINE_S", "nan", "Input should be a finite number"),
        ("LSML_PREDICT_DEADLINE_S", "-1", "Input should be greater than 0"),
        ("LOG_LEVEL", "LOUD", "Input should be 'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
        ("LSML_ACCESS_LOG", "perhaps", "Input should be a valid boolean"),
    ],
)
def test_an_invalid_value_is_an_error_that_names_it(
    name: str, value: str, reason: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_env({name: value})

    said = f"the environment variable {name} cannot be used: {reason}"
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize("name", ["BASIC_AUTH_USER", "BASIC_AUTH_PASS"])
def test_half_of_the_credentials_is_an_error(name: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_env({name: "s3cret"})

    assert str(refused.value) == (
        "set both BASIC_AUTH_USER and BASIC_AUTH_PASS, or neither of them"
    )


def test_secrets_print_as_stars() -> None:
    settings = Settings.from_env(
        {
            "LABEL_STUDIO_API_KEY": "s3cret",
            "BASIC_AUTH_USER": "user",
            "BASIC_AUTH_PASS": "s3cret",
        }
    )

    assert "s3cret" not in repr(settings)
    assert "s3cret" not in settings.model_dump_json()


def test_every_variable_has_a_description() -> None:
    for name, description in environment_names().items():
        assert name.isupper()
        assert len(description) > 10, name
