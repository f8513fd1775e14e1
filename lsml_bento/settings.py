"""The settings that a process reads from its environment, once, at its start."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

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


def _root_path(value: object) -> object:
    return "/" + value.strip("/") if isinstance(value, str) and value.strip("/") else ""


class Settings(BaseModel):
    """The settings of one serving process; docs/settings.md lists them.

    The environment wins over the arguments of ``create_service``, so that one image can
    be tuned where it runs.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, protected_namespaces=())

    label_studio_url: str | None = Field(
        None, validation_alias=AliasChoices("LABEL_STUDIO_URL", "LABEL_STUDIO_HOST")
    )
    """URL of Label Studio, including its sub-path if it has one."""
    label_studio_api_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices(
            "LABEL_STUDIO_API_KEY", "LABEL_STUDIO_ACCESS_TOKEN"
        ),
    )
    """A personal access token or a legacy token. It is sent to LABEL_STUDIO_URL
    only."""
    basic_auth_user: str | None = Field(None, validation_alias="BASIC_AUTH_USER")
    """User name for Basic auth, required on every route except the health probes. Set
    BASIC_AUTH_PASS too."""
    basic_auth_pass: SecretStr | None = Field(None, validation_alias="BASIC_AUTH_PASS")
    """Password for Basic auth. Set BASIC_AUTH_USER too."""
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"],
        BeforeValidator(lambda text: text.upper()),
    ] = Field("INFO", validation_alias="LOG_LEVEL")
    """`DEBUG`, `INFO`, `WARNING` or `ERROR` (default `INFO`)."""
    log_format: Annotated[
        Literal["text", "json"], BeforeValidator(lambda text: text.lower())
    ] = Field("text", validation_alias="LSML_LOG_FORMAT")
    """`text`, or `json` for one JSON object per line (default `text`)."""
    model_dir: Path | None = Field(None, validation_alias="MODEL_DIR")
    """Directory where a model written for label_studio_ml keeps its files."""
    port: int = Field(9090, ge=0, le=65535, validation_alias="PORT")
    """HTTP port of `lsml-bento start` (default 9090)."""
    workers: int | None = Field(None, ge=1, validation_alias="WORKERS")
    """Number of serving processes, each with its own models (default 1)."""
    threads: int | None = Field(None, ge=1, validation_alias="THREADS")
    """Concurrent `predict` calls per serving process, for models that wait on the
    network (default 1)."""
    home: Path | None = Field(None, validation_alias="LSML_HOME")
    """Directory for state (default `.lsml` in the backend's directory if it is
    writable, else `~/.lsml/NAME`)."""
    max_batch_size: int | None = Field(
        None, ge=1, validation_alias="LSML_MAX_BATCH_SIZE"
    )
    """Maximum number of tasks in one `predict` call (default 32)."""
    max_models: int = Field(8, ge=1, validation_alias="LSML_MAX_MODELS")
    """Number of projects whose model objects stay loaded; the least recently used are
    dropped (default 8)."""
    queue_size: int = Field(10_000, ge=1, validation_alias="LSML_QUEUE_SIZE")
    """Number of tasks that may wait in a lane before further requests get 503 (default
    10000)."""
    predict_deadline_s: float = Field(
        90.0, gt=0, validation_alias="LSML_PREDICT_DEADLINE_S"
    )
    """After this many seconds `/predict` returns what is finished (default 90). Label
    Studio gives up after 100."""
    max_body_mib: float = Field(256.0, gt=0, validation_alias="LSML_MAX_BODY_MIB")
    """Maximum size of a request body in MiB; larger ones get 413 (default 256)."""
    root_path: Annotated[str, BeforeValidator(_root_path)] = Field(
        "", validation_alias="LSML_ROOT_PATH"
    )
    """Path prefix that the proxy does not strip, such as `/ml`."""
    local_files_root: Path | None = Field(
        None,
        validation_alias=AliasChoices(
            "LSML_LOCAL_FILES_ROOT",
            "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT",
            "LOCAL_FILES_DOCUMENT_ROOT",
        ),
    )
    """The only directory from which local paths in task data are read."""
    worker: Literal["embedded", "external"] = Field(
        "embedded", validation_alias="LSML_WORKER"
    )
    """`embedded` runs a worker as a child process of the server; `external` expects a
    separate `lsml-bento worker` (default `embedded`)."""
    redis_url: SecretStr | None = Field(None, validation_alias="REDIS_URL")
    """Keep state, jobs and the queue in this Redis, to share them between machines
    (default: SQLite in `LSML_HOME`)."""
    model_store: Path | None = Field(None, validation_alias="LSML_MODEL_STORE")
    """BentoML model store for model versions (default `$BENTOML_HOME/models`)."""
    model_repo: str | None = Field(None, validation_alias="LSML_MODEL_REPO")
    """Where machines without a shared disk exchange versions: `s3://bucket/path`,
    `file:///path`, or any other URL that fsspec supports."""
    train_gpus: str | None = Field(None, validation_alias="LSML_TRAIN_GPUS")
    """GPUs visible to `fit`, in the format of CUDA_VISIBLE_DEVICES (default: those that
    the worker sees)."""
    fits: int = Field(1, ge=1, validation_alias="LSML_FITS")
    """Number of fits that a worker runs at a time, each of a different project (default
    1). If LSML_TRAIN_GPUS lists several GPUs, each fit gets one."""
    fit_timeout_s: float = Field(86_400.0, gt=0, validation_alias="LSML_FIT_TIMEOUT_S")
    """Maximum duration of a `fit` in seconds; a longer one fails (default 86400)."""
    fit_idle_s: float = Field(300.0, ge=0, validation_alias="LSML_FIT_IDLE_S")
    """How many seconds the `fit` process of a label_studio_ml class is kept for the
    next event (default 300)."""
    keep_versions: int = Field(10, ge=1, validation_alias="LSML_KEEP_VERSIONS")
    """Number of versions to keep per project, not counting the one that serves if it is
    older (default 10)."""
    keep_jobs: int = Field(1_000, ge=1, validation_alias="LSML_KEEP_JOBS")
    """Number of finished jobs to keep (default 1000)."""
    pipeline: Pipeline | None = Field(None, validation_alias="LSML_PIPELINE")
    """transformers pipeline to serve instead of code."""
    pipeline_model: str | None = Field(None, validation_alias="LSML_PIPELINE_MODEL")
    """Model of the pipeline: a directory, or NAME or NAME@REVISION on the Hugging Face
    hub."""
    pipeline_device: str | None = Field(None, validation_alias="LSML_PIPELINE_DEVICE")
    """Device of the pipeline, such as `cuda:1` (default: a GPU if there is one)."""
    pipeline_name: str | None = Field(None, validation_alias="LSML_PIPELINE_NAME")
    """Name of the pipeline's backend (default: made from pipeline and model)."""
    access_log: bool = Field(False, validation_alias="LSML_ACCESS_LOG")
    """Log a line per request (default off)."""
    tracing: bool = Field(False, validation_alias="LSML_TRACING")
    """Create OpenTelemetry spans for each request, for BentoML's exporters (default
    off). A small request then costs about three times as much CPU."""

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
                f"the environment variable {first['loc'][0]} cannot be used: {said}"
            ) from None

    @model_validator(mode="after")
    def _check_basic_auth(self) -> Settings:
        user, password = self.basic_auth_user, self.basic_auth_pass
        if (user is None) != (password is None):
            # With only one of them, the server would run without authentication.
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
