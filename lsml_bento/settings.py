"""All that the environment decides, read once and passed on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from lsml_bento.errors import SettingsError
from lsml_bento.pipelines import Pipeline


def _alias(*names: str) -> Any:
    return AliasChoices(*names)


def _root_path(value: object) -> object:
    return "/" + value.strip("/") if isinstance(value, str) and value.strip("/") else ""


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class Settings(BaseModel):
    """The settings of one serving process; every one has a row in the README's table.

    The environment wins over the arguments of ``create_service``, so that one image can
    be tuned where it runs.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    label_studio_url: str | None = Field(
        None,
        validation_alias=_alias("LABEL_STUDIO_URL", "LABEL_STUDIO_HOST"),
        description="Where Label Studio answers, with its sub-path if it has one",
    )
    label_studio_api_key: SecretStr | None = Field(
        None,
        validation_alias=_alias("LABEL_STUDIO_API_KEY", "LABEL_STUDIO_ACCESS_TOKEN"),
        description="A personal access token or a legacy token; sent to "
        "LABEL_STUDIO_URL only",
    )
    basic_auth_user: str | None = Field(
        None,
        validation_alias="BASIC_AUTH_USER",
        description="With BASIC_AUTH_PASS: asked for on every route but health probes",
    )
    basic_auth_pass: SecretStr | None = Field(
        None, validation_alias="BASIC_AUTH_PASS", description="See BASIC_AUTH_USER"
    )
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)
    ] = Field(
        "INFO",
        validation_alias="LOG_LEVEL",
        description="`DEBUG`, `INFO`, `WARNING` or `ERROR` (`INFO`)",
    )
    log_format: Annotated[Literal["text", "json"], BeforeValidator(_lower)] = Field(
        "text",
        validation_alias="LSML_LOG_FORMAT",
        description="`text`, or `json` for one JSON object per line (`text`)",
    )
    model_dir: Path | None = Field(
        None,
        validation_alias="MODEL_DIR",
        description="Where a model written for label_studio_ml keeps its files",
    )
    port: int = Field(
        9090,
        ge=0,
        le=65535,
        validation_alias="PORT",
        description="The HTTP port of `lsml-bento start` (9090)",
    )
    workers: int | None = Field(
        None,
        ge=1,
        validation_alias="WORKERS",
        description="Serving processes, each with models of its own (1)",
    )
    threads: int | None = Field(
        None,
        ge=1,
        validation_alias="THREADS",
        description="Calls of predict at a time in a process, for models that wait on "
        "the network (1)",
    )
    home: Path | None = Field(
        None,
        validation_alias="LSML_HOME",
        description="Where state is kept (`.lsml` in the backend's directory, else "
        "`~/.lsml/NAME`)",
    )
    max_batch_size: int | None = Field(
        None,
        ge=1,
        validation_alias="LSML_MAX_BATCH_SIZE",
        description="Tasks in one call of predict at most (32)",
    )
    max_models: int = Field(
        8,
        ge=1,
        validation_alias="LSML_MAX_MODELS",
        description="Projects whose model objects are kept, the last used ones (8)",
    )
    queue_size: int = Field(
        10_000,
        ge=1,
        validation_alias="LSML_QUEUE_SIZE",
        description="Tasks that may wait in a lane before a request gets 503 (10000)",
    )
    predict_deadline_s: float = Field(
        90.0,
        gt=0,
        allow_inf_nan=False,
        validation_alias="LSML_PREDICT_DEADLINE_S",
        description="When /predict answers what is done (90); Label Studio hangs up "
        "after 100",
    )
    max_body_mib: float = Field(
        256.0,
        gt=0,
        allow_inf_nan=False,
        validation_alias="LSML_MAX_BODY_MIB",
        description="Bodies over it get 413 (256)",
    )
    root_path: Annotated[str, BeforeValidator(_root_path)] = Field(
        "",
        validation_alias="LSML_ROOT_PATH",
        description="A path prefix in front of every route, as a proxy may leave it",
    )
    local_files_root: Path | None = Field(
        None,
        validation_alias=_alias(
            "LSML_LOCAL_FILES_ROOT",
            "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT",
            "LOCAL_FILES_DOCUMENT_ROOT",
        ),
        description="The only directory from which paths in task data are read",
    )
    worker: Literal["embedded", "external"] = Field(
        "embedded",
        validation_alias="LSML_WORKER",
        description="Who trains: `embedded`, a process beside the server, or "
        "`external`, a `lsml-bento worker` of its own (`embedded`)",
    )
    redis_url: SecretStr | None = Field(
        None,
        validation_alias="REDIS_URL",
        description="Keeps state, jobs and queue on Redis, for several machines "
        "(SQLite in `LSML_HOME`)",
    )
    model_store: Path | None = Field(
        None,
        validation_alias="LSML_MODEL_STORE",
        description="The BentoML model store that versions are kept in "
        "(`$BENTOML_HOME/models`)",
    )
    model_repo: str | None = Field(
        None,
        validation_alias="LSML_MODEL_REPO",
        description="Where machines without a common disk share versions: "
        "`s3://bucket/path`, `file:///path`, or what else fsspec knows",
    )
    train_gpus: str | None = Field(
        None,
        validation_alias="LSML_TRAIN_GPUS",
        description="The GPUs that fit sees, as in CUDA_VISIBLE_DEVICES (those that "
        "the worker sees)",
    )
    fits: int = Field(
        1,
        ge=1,
        validation_alias="LSML_FITS",
        description="Fits that a worker runs at a time, of different projects; each "
        "sees its own entry of LSML_TRAIN_GPUS where that lists several (1)",
    )
    fit_timeout_s: float = Field(
        86_400.0,
        gt=0,
        allow_inf_nan=False,
        validation_alias="LSML_FIT_TIMEOUT_S",
        description="A fit that takes longer has failed (86400)",
    )
    fit_idle_s: float = Field(
        300.0,
        ge=0,
        allow_inf_nan=False,
        validation_alias="LSML_FIT_IDLE_S",
        description="How long the process that trains a label_studio_ml class is kept "
        "for its next event (300)",
    )
    keep_versions: int = Field(
        10,
        ge=1,
        validation_alias="LSML_KEEP_VERSIONS",
        description="Versions kept of a project, the newest ones and the one that "
        "serves (10)",
    )
    keep_jobs: int = Field(
        1_000,
        ge=1,
        validation_alias="LSML_KEEP_JOBS",
        description="Jobs remembered that have ended (1000)",
    )
    pipeline: Pipeline | None = Field(
        None,
        validation_alias="LSML_PIPELINE",
        description="The pipeline of transformers that is served in place of code",
    )
    pipeline_model: str | None = Field(
        None,
        validation_alias="LSML_PIPELINE_MODEL",
        description="Its model: a directory, or on the hub NAME or NAME@REVISION",
    )
    pipeline_device: str | None = Field(
        None,
        validation_alias="LSML_PIPELINE_DEVICE",
        description="Where it computes, such as `cuda:1` (a GPU if there is one)",
    )
    pipeline_name: str | None = Field(
        None, validation_alias="LSML_PIPELINE_NAME", description="Its backend's name"
    )
    access_log: bool = Field(
        False,
        validation_alias="LSML_ACCESS_LOG",
        description="BentoML's line for each request (off)",
    )
    tracing: bool = Field(
        False,
        validation_alias="LSML_TRACING",
        description="OpenTelemetry spans for each request, for BentoML's exporters; "
        "they triple what a small request costs (off)",
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read the settings out of an environment.

        Args:
            environ: ``os.environ`` or a test's own. An empty value counts as unset, as
                images bake variables in empty.

        Raises:
            SettingsError: naming the variable, never its value if that is a secret.
        """
        present = {name: value for name, value in environ.items() if value.strip()}
        try:
            return cls.model_validate(present)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            said = first["msg"].removeprefix("Value error, ")
            if not first["loc"]:
                raise SettingsError(said) from None
            raise SettingsError(
                f"the environment variable {first['loc'][0]} can not be used: {said}"
            ) from None

    @model_validator(mode="after")
    def _check_basic_auth(self) -> Settings:
        user, password = self.basic_auth_user, self.basic_auth_pass
        if (user is None) != (password is None):
            # One alone would leave a server open that somebody meant to close.
            raise ValueError(
                "set both BASIC_AUTH_USER and BASIC_AUTH_PASS, or neither of them"
            )
        return self

    @model_validator(mode="after")
    def _check_pipeline(self) -> Settings:
        if self.pipeline is not None and self.pipeline_model is None:
            raise ValueError(
                "set LSML_PIPELINE_MODEL, the model that LSML_PIPELINE computes with"
            )
        return self

    @property
    def basic_auth(self) -> tuple[str, str] | None:
        """User and password that clients must send, or None for an open server."""
        if self.basic_auth_user is None or self.basic_auth_pass is None:
            return None
        return self.basic_auth_user, self.basic_auth_pass.get_secret_value()


def environment_names() -> dict[str, str]:
    """Every variable that is read, aliases included, with what it decides."""
    names: dict[str, str] = {}
    for field in Settings.model_fields.values():
        alias = field.validation_alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
        for choice in choices:
            names[str(choice)] = str(field.description)
    return names
