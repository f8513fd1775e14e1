"""A repository of weights keeps whole versions, and shows no credentials."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest

from lsml_bento.adapters.model_repository import ModelRepository
from lsml_bento.errors import SettingsError, WeightsError
from lsml_bento.versions.weights import Repository, manifest_of

TAG = "ner-p1.100:v1"


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "file":
        yield f"file://{tmp_path}/shared/models"
        return
    made = f"memory://test-{uuid4().hex}/models"
    yield made
    files = fsspec.filesystem("memory")
    if files.exists(made):
        files.rm(made, recursive=True)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    directory = tmp_path / "written"
    (directory / "weights" / "deep").mkdir(parents=True)
    (directory / "model.yaml").write_text("name: ner")
    (directory / "weights" / "é b.bin").write_bytes(bytes(range(256)) * 40)
    (directory / "weights" / "deep" / "a..b").write_bytes(b"")
    return directory


class TestEveryRepository:
    def test_what_was_pushed_is_pulled_as_it_was(
        self, url: str, written: Path, tmp_path: Path
    ) -> None:
        repository: Repository = ModelRepository(url)
        repository.push(written, TAG)
        pulled = tmp_path / "pulled"

        assert ModelRepository(url).pull(TAG, pulled)
        assert manifest_of(pulled) == manifest_of(written)

    def test_what_was_not_pushed_is_not_there(self, url: str, tmp_path: Path) -> None:
        repository = ModelRepository(url)

        assert not repository.pull(TAG, tmp_path / "pulled")
        repository.delete(TAG)

    def test_an_interrupted_push_is_not_found_and_can_be_repeated(
        self, url: str, written: Path, tmp_path: Path
    ) -> None:
        repository = ModelRepository(url)
        repository.push(written, TAG)
        files = fsspec.filesystem(url.partition(":")[0])
        files.rm(f"{url}/ner-p1.100/v1/lsml.json")

        assert not repository.pull(TAG, tmp_path / "pulled")
        repository.push(written, TAG)
        assert repository.pull(TAG, tmp_path / "pulled")

    def test_a_second_push_replaces_the_first(
        self, url: str, written: Path, tmp_path: Path
    ) -> None:
        repository = ModelRepository(url)
        repository.push(written, TAG)
        (written / "weights" / "é b.bin").write_bytes(b"new")
        repository.push(written, TAG)

        assert repository.pull(TAG, tmp_path / "pulled")
        assert (tmp_path / "pulled/weights/é b.bin").read_bytes() == b"new"

    def test_deleting_leaves_other_versions_alone(
        self, url: str, written: Path, tmp_path: Path
    ) -> None:
        repository = ModelRepository(url)
        for tag in (TAG, TAG + "0"):
            repository.push(written, tag)
        repository.delete(TAG)

        assert not repository.pull(TAG, tmp_path / "pulled")
        assert repository.pull(TAG + "0", tmp_path / "pulled")
        files = fsspec.filesystem(url.partition(":")[0])
        assert not files.exists(f"{url}/ner-p1.100/v1")

    def test_what_changed_there_is_not_whole(
        self, url: str, written: Path, tmp_path: Path
    ) -> None:
        repository = ModelRepository(url)
        repository.push(written, TAG)
        files = fsspec.filesystem(url.partition(":")[0])
        files.pipe_file(f"{url}/ner-p1.100/v1/weights/é b.bin", b"x" * 10_240)

        with pytest.raises(WeightsError, match=r"are damaged: weights/é b\.bin has"):
            repository.pull(TAG, tmp_path / "pulled")

    def test_a_file_that_is_gone_there_is_named(
        self, url: str, written: Path, tmp_path: Path
    ) -> None:
        repository = ModelRepository(url)
        repository.push(written, TAG)
        files = fsspec.filesystem(url.partition(":")[0])
        files.rm(f"{url}/ner-p1.100/v1/model.yaml")

        with pytest.raises(WeightsError, match=r"v1 could not be read from .*FileNotF"):
            repository.pull(TAG, tmp_path / "pulled")

    @pytest.mark.parametrize("name", ["../out", "/out", "weights/../../out"])
    def test_a_mark_cannot_have_files_written_elsewhere(
        self, url: str, written: Path, tmp_path: Path, name: str
    ) -> None:
        repository = ModelRepository(url)
        repository.push(written, TAG)
        mark = json.dumps({"files": {name: [0, "0"]}})
        files = fsspec.filesystem(url.partition(":")[0])
        files.pipe_file(f"{url}/ner-p1.100/v1/lsml.json", mark.encode())

        with pytest.raises(
            WeightsError, match=r"names files outside of .*: it was not written by"
        ):
            repository.pull(TAG, tmp_path / "pulled")

    @pytest.mark.parametrize("mark", [b"", b"{", b"[]", b'{"files": [1]}'])
    def test_an_invalid_mark_is_an_error(
        self, url: str, written: Path, tmp_path: Path, mark: bytes
    ) -> None:
        repository = ModelRepository(url)
        repository.push(written, TAG)
        files = fsspec.filesystem(url.partition(":")[0])
        files.pipe_file(f"{url}/ner-p1.100/v1/lsml.json", mark)

        with pytest.raises(WeightsError, match="v1 could not be read from the model"):
            repository.pull(TAG, tmp_path / "pulled")

    @pytest.mark.parametrize("tag", ["../..:v1", "a:..", "a", "a:b:c", "a:b/../c", ""])
    def test_an_invalid_tag_is_refused(self, url: str, tag: str) -> None:
        with pytest.raises(WeightsError, match="is not a tag of a model store"):
            ModelRepository(url).delete(tag)


def test_the_error_names_a_repository_that_cannot_be_written(
    tmp_path: Path, written: Path
) -> None:
    (tmp_path / "file").touch()
    repository = ModelRepository(f"file://{tmp_path}/file")

    with pytest.raises(
        WeightsError,
        match=r"the weights ner-p1.100:v1 could not be written to the model repository "
        r"file://.*/file: (NotADirectory|FileExists)Error",
    ):
        repository.push(written, TAG)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed

    with pytest.raises(
        SettingsError,
        match=r"^LSML_MODEL_REPO is 's3://bucket/path', and s3:// needs the package "
        r"s3fs: pip install s3fs$",
    ):
        ModelRepository("s3://bucket/path")


@pytest.mark.parametrize("url", ["models", "/mnt/models", "", "s3://", "://x"])
def test_an_unsupported_url_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match=r"set it to a URL such as s3://bucket"):
        ModelRepository(url)


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(
        SettingsError, match="fsspec does not support nfs4://: use s3://"
    ):
        ModelRepository("nfs4://host/path")


def test_credentials_are_in_no_message(
    written: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = "http://someone:p%40ss-word@127.0.0.1:9/models?X-Amz-Signature=s1gn"
    repository = ModelRepository(url)

    with pytest.raises(WeightsError) as caught:
        repository.push(written, TAG)

    for secret in ("someone", "p%40ss-word", "p@ss-word", "s1gn"):
        assert secret not in str(caught.value)
        assert secret not in repository.url
        assert secret not in caplog.text
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert "http://127.0.0.1:9/models: " in str(caught.value)
