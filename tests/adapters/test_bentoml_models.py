"""Versions in the model store are whole, whoever is killed, and BentoML reads them."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from bentoml._internal.models import ModelStore

from lsml_bento.adapters.bentoml_models import BentoModels, default_store
from lsml_bento.adapters.model_repository import ModelRepository
from lsml_bento.errors import WeightsError
from lsml_bento.versions.weights import Manifest, Saved, Weights, manifest_of

NAME = "ner-p1.100"
ROOT = Path(__file__).parents[2]

WRITER = """
import json, os, sys
from pathlib import Path

import bentoml._internal.models

from lsml_bento.adapters.bentoml_models import BentoModels

store, name, prefix, count, size = sys.argv[1:]
models = BentoModels(Path(store))
payload = os.urandom(1 << 20)
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(count)):
    with models.writing() as directory:
        with (directory / "weights.bin").open("wb") as file:
            for _ in range(int(size)):
                file.write(payload)
        (directory / "config.json").write_text("{}")
        saved = models.keep(directory, name, f"{prefix}{number}", {}, {})
    print(json.dumps([saved.tag, saved.manifest]), flush=True)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "bentoml"


@pytest.fixture
def store(home: Path) -> Path:
    return home / "models"


@pytest.fixture
def models(store: Path) -> BentoModels:
    return BentoModels(store)


@pytest.fixture
def repository() -> Iterator[ModelRepository]:
    url = f"memory://test-{uuid4().hex}/models"
    yield ModelRepository(url)
    files = fsspec.filesystem("memory")
    if files.exists(url):
        files.rm(url, recursive=True)


def write(models: Weights, version: str = "v1", text: str = "weights") -> Saved:
    with models.writing() as directory:
        (directory / "deep").mkdir()
        (directory / "deep" / "weights.bin").write_text(text)
        (directory / "model.yaml").write_text("the user's own")
        return models.keep(
            directory,
            NAME,
            version,
            {"project": "1.100", "job": "j1", "backend": "ner"},
            {"metrics": {"f1": 0.5, "loss": None}, "parent": None},
        )


def damage(saved: Saved) -> None:
    (saved.path / "deep" / "weights.bin").write_text("weighTs")


def scraps(store: Path) -> list[str]:
    room = store.parent / ".models-writing"
    return sorted(path.name for path in room.iterdir()) if room.is_dir() else []


def latest(store: Path) -> str:
    return (store / NAME / "latest").read_text()


def bentoml(home: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "bentoml", "models", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=home,
        env={**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def writer(
    store: Path, prefix: str, count: int, size_mib: int
) -> subprocess.Popen[str]:
    """A process that writes versions, once ``start`` tells it to."""
    arguments = [str(store), NAME, prefix, str(count), str(size_mib)]
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def start(process: subprocess.Popen[str]) -> None:
    assert process.stdout
    assert process.stdin
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("\n")
    process.stdin.flush()


def written_by(output: str) -> dict[str, Manifest]:
    """What a writer reported; the last line may have been cut off with it."""
    found = {}
    for line in output.splitlines(keepends=True):
        if line.endswith("\n"):
            tag, manifest = json.loads(line)
            found[tag] = {name: (size, sha) for name, (size, sha) in manifest.items()}
    return found


def see_that_each_is_whole(store: Path) -> None:
    """Check every version, including those that their writer never reported."""
    models = BentoModels(store)
    for tag in models.tags(NAME):
        assert models.find(tag, recorded(store, tag))


def recorded(store: Path, tag: str) -> Manifest:
    """The manifest in a version's ``model.yaml``."""
    metadata: Any = ModelStore(store).get(tag).info.metadata
    return {name: (size, sha) for name, (size, sha) in metadata["manifest"].items()}


class TestAVersion:
    def test_what_was_kept_is_found_again(
        self, models: BentoModels, store: Path
    ) -> None:
        saved = write(models)
        other = BentoModels(store)

        assert saved.tag == f"{NAME}:v1"
        assert other.tags(NAME) == [saved.tag]
        assert other.find(saved.tag, saved.manifest) == saved.path
        assert manifest_of(saved.path) == saved.manifest
        assert sorted(saved.manifest) == ["deep/weights.bin", "model.yaml"]
        assert (saved.path / "model.yaml").read_text() == "the user's own"
        assert scraps(store) == []

    def test_any_user_may_read_what_the_umask_lets_them(
        self, models: BentoModels, store: Path
    ) -> None:
        old = os.umask(0o022)
        try:
            saved = write(models)
        finally:
            os.umask(old)

        for path in (saved.path, saved.path.parent, saved.path.parent.parent):
            assert path.stat().st_mode & 0o777 == 0o755

    def test_a_block_that_fails_leaves_nothing(
        self, models: BentoModels, store: Path
    ) -> None:
        def fail() -> None:
            with models.writing() as directory:
                (directory / "weights.bin").write_text("half")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()

        assert models.tags(NAME) == []
        assert scraps(store) == []

    def test_a_version_without_a_file_is_refused(
        self, models: BentoModels, store: Path
    ) -> None:
        with (
            pytest.raises(WeightsError, match=r"^save_weights\(\) got no file"),
            models.writing() as directory,
        ):
            models.keep(directory, NAME, "v1", {}, {})

        assert models.tags(NAME) == []
        assert scraps(store) == []

    def test_a_version_is_never_written_over(
        self, models: BentoModels, store: Path
    ) -> None:
        saved = write(models)

        with pytest.raises(WeightsError, match=f"{NAME}:v1 already exist"):
            write(models, text="other")

        assert models.find(saved.tag, saved.manifest) == saved.path
        assert scraps(store) == []

    def test_links_become_the_files_that_they_named(
        self, models: BentoModels, tmp_path: Path
    ) -> None:
        (tmp_path / "cache" / "deep").mkdir(parents=True)
        (tmp_path / "cache" / "deep" / "blob").write_text("blob")
        with models.writing() as directory:
            (directory / "file").symlink_to(tmp_path / "cache" / "deep" / "blob")
            (directory / "tree").symlink_to(tmp_path / "cache")
            saved = models.keep(directory, NAME, "v1", {}, {})
        shutil.rmtree(tmp_path / "cache")

        assert sorted(saved.manifest) == ["file", "tree/deep/blob"]
        assert BentoModels(models._store).find(saved.tag, saved.manifest)

    @pytest.mark.parametrize("version", ["V1", "", "a/b", "..", "v" * 64, "v1:2"])
    def test_a_version_that_is_not_a_tag_is_refused(
        self, models: BentoModels, version: str
    ) -> None:
        with pytest.raises(WeightsError, match="is not a tag of a model store"):
            write(models, version)

    def test_deleting_what_is_not_there_does_nothing(
        self, models: BentoModels, store: Path
    ) -> None:
        models.delete(f"{NAME}:v1")

        assert models.tags(NAME) == []
        assert not store.exists()

    @pytest.mark.parametrize("tag", ["..:..", "", ":", "a:", ":a", "a:..", "/:a", "a"])
    def test_nothing_outside_of_the_store_can_be_deleted(
        self, models: BentoModels, tag: str
    ) -> None:
        with pytest.raises(WeightsError, match="is not a tag of a model store"):
            models.delete(tag)


class TestWhatIsNotWhole:
    @pytest.mark.parametrize("repaired", [False, True])
    def test_it_is_not_found(
        self, store: Path, repository: ModelRepository, repaired: bool
    ) -> None:
        saved = write(BentoModels(store, repository if repaired else None))
        damage(saved)
        models = BentoModels(store, repository)

        if repaired:
            path = models.find(saved.tag, saved.manifest)
            assert path == saved.path
            assert manifest_of(path) == saved.manifest
        else:
            with pytest.raises(WeightsError) as caught:
                models.find(saved.tag, saved.manifest)
            assert "are damaged: deep/weights.bin has 7 of 7" in str(caught.value)
            assert f"and the model repository {repository.url}" in str(caught.value)
        assert scraps(store) == []

    def test_damaged_weights_are_an_error_without_a_repository(
        self, store: Path
    ) -> None:
        saved = write(BentoModels(store))
        (saved.path / "deep" / "weights.bin").unlink()

        with pytest.raises(WeightsError, match=r"damaged: .*activate another vers"):
            BentoModels(store).find(saved.tag, saved.manifest)

    def test_the_files_are_read_once_per_process(self, models: BentoModels) -> None:
        saved = write(models)
        models.find(saved.tag, saved.manifest)
        damage(saved)

        assert models.find(saved.tag, saved.manifest) == saved.path

    def test_what_was_deleted_meanwhile_is_not_found(
        self, models: BentoModels, store: Path
    ) -> None:
        saved = write(models)
        shutil.rmtree(saved.path.parent)

        with pytest.raises(
            WeightsError, match=f"v1 are not in the model store {store}"
        ):
            models.find(saved.tag, saved.manifest)

    @pytest.mark.parametrize("half", ["empty", "no model.yaml", "half a model.yaml"])
    def test_half_versions_of_bentoml_are_listed_and_removed(
        self, models: BentoModels, store: Path, home: Path, half: str
    ) -> None:
        whole = write(models)
        directory = store / NAME / "half"
        directory.mkdir()
        if half != "empty":
            (directory / "weights.bin").write_bytes(b"x" * 100)
        if half == "half a model.yaml":
            (directory / "model.yaml").write_text("name: ner\nlabels: {")
        newer = write(models, "v2")

        assert models.tags(NAME) == [f"{NAME}:half", f"{NAME}:v1", f"{NAME}:v2"]
        assert models.find(newer.tag, newer.manifest) == newer.path
        models.delete(f"{NAME}:half")
        assert [str(model.tag) for model in ModelStore(store).list()] == [
            whole.tag,
            newer.tag,
        ]
        assert latest(store) == "v2"


class TestTheRepository:
    def test_another_machine_pulls_a_version(
        self, store: Path, tmp_path: Path, repository: ModelRepository
    ) -> None:
        saved = write(BentoModels(store, repository))
        elsewhere = tmp_path / "elsewhere" / "models"
        models = BentoModels(elsewhere, repository)

        path = models.find(saved.tag, saved.manifest)

        assert path == elsewhere / NAME / "v1" / "weights"
        assert manifest_of(path) == saved.manifest
        assert ModelStore(elsewhere).get(NAME).info == ModelStore(store).get(NAME).info
        assert scraps(elsewhere) == []

    def test_threads_that_want_the_same_pull_it_once(
        self, store: Path, tmp_path: Path
    ) -> None:
        shared = ModelRepository(f"file://{tmp_path}/shared")
        saved = write(BentoModels(store, shared))
        elsewhere = tmp_path / "elsewhere" / "models"
        models = [BentoModels(elsewhere, shared) for _ in range(6)]
        inodes = []

        def find(one: BentoModels) -> None:
            inodes.append(one.find(saved.tag, saved.manifest).stat().st_ino)

        threads = [threading.Thread(target=find, args=(one,)) for one in models]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(inodes) == 6
        assert len(set(inodes)) == 1
        assert scraps(elsewhere) == []

    def test_a_copy_that_is_not_the_version_is_not_taken(
        self, store: Path, tmp_path: Path, repository: ModelRepository
    ) -> None:
        saved = write(BentoModels(store, repository))
        repository.delete(saved.tag)
        write(BentoModels(tmp_path / "other" / "models", repository), text="another")
        elsewhere = tmp_path / "elsewhere" / "models"
        models = BentoModels(elsewhere, repository)

        with pytest.raises(WeightsError, match="are damaged: deep/weights"):
            models.find(saved.tag, saved.manifest)
        assert models.tags(NAME) == []
        assert scraps(elsewhere) == []

    def test_what_is_nowhere_says_where_it_was_looked_for(
        self, models: BentoModels, store: Path, repository: ModelRepository
    ) -> None:
        saved = write(models)
        models.delete(saved.tag)

        with pytest.raises(WeightsError) as caught:
            BentoModels(store, repository).find(saved.tag, saved.manifest)
        assert str(caught.value) == (
            f"the weights {saved.tag} are not in the model store {store}, and the "
            f"model repository {repository.url} has no copy: activate another version, "
            "or train again"
        )

    def test_a_version_that_was_not_pushed_is_not_kept(
        self, store: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        models = BentoModels(store, ModelRepository(f"file://{tmp_path}/file"))

        with pytest.raises(WeightsError, match="not be written to the model reposit"):
            write(models)
        assert models.tags(NAME) == []
        assert scraps(store) == []

    def test_deleting_removes_the_copy_too(
        self, store: Path, repository: ModelRepository, tmp_path: Path
    ) -> None:
        models = BentoModels(store, repository)
        saved = write(models)
        models.delete(saved.tag)

        assert not repository.pull(saved.tag, tmp_path / "pulled")
        assert models.tags(NAME) == []


class TestLatest:
    def test_it_names_the_newest_as_bentoml_would(
        self, models: BentoModels, store: Path
    ) -> None:
        for version in ("v2", "v1", "v3"):
            write(models, version)
        assert latest(store) == "v3"

        models.delete(f"{NAME}:v3")
        assert latest(store) == "v1"
        models.delete(f"{NAME}:v2")
        assert latest(store) == "v1"
        models.delete(f"{NAME}:v1")
        assert not (store / NAME).exists()

    def test_an_older_version_that_is_pulled_does_not_become_it(
        self, store: Path, tmp_path: Path, repository: ModelRepository
    ) -> None:
        first = BentoModels(store, repository)
        old, new = write(first, "v1"), write(first, "v2")
        elsewhere = tmp_path / "elsewhere" / "models"
        models = BentoModels(elsewhere, repository)
        for saved in (new, old):
            models.find(saved.tag, saved.manifest)

        assert latest(elsewhere) == "v2"


class TestSweep:
    def test_only_what_no_record_knows_goes(
        self, models: BentoModels, store: Path
    ) -> None:
        known, orphan = write(models, "v1"), write(models, "v2")
        with models.writing() as directory:
            (directory / "a").write_text("a")
            models.keep(directory, "other", "v1", {}, {})

        assert models.sweep([NAME, "none"], {known.tag}, 0) == [orphan.tag]
        assert models.tags(NAME) == [known.tag]
        assert models.tags("other") == ["other:v1"]

    def test_what_is_young_stays(self, models: BentoModels) -> None:
        saved = write(models)

        assert models.sweep([NAME], set(), 60) == []
        assert models.tags(NAME) == [saved.tag]

    def test_what_is_being_written_stays(
        self, models: BentoModels, store: Path
    ) -> None:
        with models.writing() as directory:
            (directory / "a").write_text("a")
            assert BentoModels(store).sweep([NAME], set(), 0) == []
            saved = models.keep(directory, NAME, "v1", {}, {})

        assert models.find(saved.tag, saved.manifest) == saved.path

    def test_an_empty_home_has_nothing_to_sweep(
        self, models: BentoModels, store: Path
    ) -> None:
        assert models.sweep([NAME], set(), 0) == []
        assert not store.exists()


class TestADiskThatFails:
    def test_a_full_disk_is_reported_in_one_sentence(
        self, models: BentoModels, store: Path
    ) -> None:
        def fill() -> None:
            with models.writing() as directory:
                (directory / "weights.bin").symlink_to("/dev/full")
                (directory / "weights.bin").write_bytes(b"x" * 1_000_000)

        with pytest.raises(
            WeightsError,
            match=r"^the weights in the model store .* could not be written: \[Errno 28"
            r".* the disk is full: free some space, or set LSML_MODEL_STORE to anoth",
        ) as caught:
            fill()
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.__cause__.errno == errno.ENOSPC
        assert scraps(store) == []

    def test_other_errors_of_the_block_are_the_users_own(
        self, models: BentoModels
    ) -> None:
        def fail() -> None:
            with models.writing() as directory:
                (directory / "none").read_text()

        with pytest.raises(FileNotFoundError):
            fail()

    def test_a_description_that_cannot_be_written_leaves_nothing_behind(
        self, models: BentoModels, store: Path
    ) -> None:
        write(models)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        with models.writing() as directory:
            (directory / "weights.bin").write_bytes(b"x")
            resource.setrlimit(resource.RLIMIT_FSIZE, (50, limits[1]))
            try:
                with pytest.raises(WeightsError, match=r"be written: .*File too large"):
                    models.keep(directory, NAME, "v2", {}, {})
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)

        assert models.tags(NAME) == [f"{NAME}:v1"]
        assert scraps(store) == []

    @pytest.mark.parametrize("place", ["models", "models/below"])
    def test_a_store_that_cannot_be_written_is_reported_in_one_sentence(
        self, tmp_path: Path, place: str
    ) -> None:
        (tmp_path / "models").touch()
        models = BentoModels(tmp_path / place)

        with pytest.raises(
            WeightsError,
            match=r"could not be written: .*; set LSML_MODEL_STORE to a directory that "
            r"this user can write$",
        ):
            write(models)
        assert models.tags(NAME) == []

    def test_a_read_only_store_can_be_read(
        self, models: BentoModels, store: Path, home: Path
    ) -> None:
        saved = write(models)
        shutil.rmtree(home / ".models-writing")
        (home / ".models-writing").touch()  # a root user is stopped by no mode
        (store / "lsml-writing").touch()

        assert BentoModels(store).find(saved.tag, saved.manifest) == saved.path

    def test_a_store_no_rename_reaches_is_written_from_inside(
        self, home: Path, store: Path
    ) -> None:
        volume = Path("/dev/shm") / f"lsml-test-{uuid4().hex}"
        volume.mkdir()
        try:
            home.mkdir()
            store.symlink_to(volume)
            models = BentoModels(store)
            assert store.stat().st_dev != home.stat().st_dev
            saved = write(models)
            with models.writing():
                tags = [str(model.tag) for model in ModelStore(store).list()]

            assert tags == ["lsml-writing:files", saved.tag]
            assert models.find(saved.tag, saved.manifest) == saved.path
            assert models.sweep([NAME], set(), 0) == [saved.tag]
            room = volume / "lsml-writing" / "files"
            assert [path.name for path in room.iterdir()] == ["model.yaml"]
            assert scraps(store) == []
        finally:
            shutil.rmtree(volume)


class TestManyProcesses:
    def test_a_killed_writer_leaves_no_half_version(
        self, models: BentoModels, store: Path, home: Path
    ) -> None:
        told: dict[str, Manifest] = {}
        write(models, "first")
        writers = [writer(store, f"w{number}-", 5, 30) for number in range(10)]
        try:
            for process in writers:
                start(process)
                time.sleep(random.uniform(0, 0.4))
                process.kill()
                told |= written_by(process.communicate(timeout=60)[0])
                see_that_each_is_whole(store)
        finally:
            for process in writers:
                process.kill()
                process.wait(60)
        assert told.keys() <= set(models.tags(NAME))
        left = scraps(store)
        orphans = {tag for tag in models.tags(NAME) if tag not in told}
        removed = models.sweep([NAME], told, 0)
        assert set(removed) == {*orphans, *left}
        assert scraps(store) == []
        assert set(models.tags(NAME)) == told.keys()
        listed = json.loads(bentoml(home, "list", "-o", "json"))
        assert {model["tag"] for model in listed} == told.keys()

    def test_writers_at_once_all_succeed_and_readers_see_whole_versions_only(
        self, models: BentoModels, store: Path
    ) -> None:
        write(models, "first")
        writers = [writer(store, f"w{number}-", 3, 1) for number in range(8)]
        told: dict[str, Manifest] = {}
        reads = 0
        try:
            for process in writers:
                start(process)
            while any(process.poll() is None for process in writers):
                assert [str(model.tag) for model in ModelStore(store).list()]
                assert models.tags(NAME)
                ModelStore(store).get(NAME)
                reads += 1
        finally:
            for process in writers:
                process.kill()
                told |= written_by(process.communicate(timeout=60)[0])

        assert reads > 2
        assert len(told) == 24
        for tag, manifest in told.items():
            assert models.find(tag, manifest)
        newest = max(
            ModelStore(store).list(NAME), key=lambda model: model.creation_time
        )
        assert latest(store) == newest.tag.version
        assert scraps(store) == []


def test_bentoml_lists_shows_exports_and_deletes_a_version(
    models: BentoModels, home: Path, store: Path, tmp_path: Path
) -> None:
    saved, other = write(models, "v1"), write(models, "v2")

    listed = json.loads(bentoml(home, "list", "-o", "json"))
    assert [(model["tag"], model["module"]) for model in listed] == [
        (other.tag, "lsml_bento"),
        (saved.tag, "lsml_bento"),
    ]

    shown = json.loads(bentoml(home, "get", saved.tag, "-o", "json"))
    assert shown["labels"] == {"project": "1.100", "job": "j1", "backend": "ner"}
    assert shown["metadata"]["metrics"] == {"f1": 0.5}
    assert shown["metadata"]["manifest"] == json.loads(json.dumps(saved.manifest))

    bentoml(home, "export", saved.tag, str(tmp_path / "v1.bentomodel"))
    bentoml(home, "delete", "-y", saved.tag)
    assert models.tags(NAME) == [other.tag]
    with pytest.raises(WeightsError, match="v1 are not in the model store"):
        models.find(saved.tag, saved.manifest)

    bentoml(home, "import", str(tmp_path / "v1.bentomodel"))
    assert models.find(saved.tag, saved.manifest) == saved.path
    assert manifest_of(saved.path) == saved.manifest


def test_the_default_store_is_bentomls_own() -> None:
    assert default_store({"BENTOML_HOME": "/data"}) == Path("/data/models")
    assert default_store({"BENTOML_HOME": ""}) == Path.home() / "bentoml" / "models"
    assert default_store({}) == Path.home() / "bentoml" / "models"


def test_importing_loads_neither_bentoml_nor_torch() -> None:
    code = (
        "import sys, lsml_bento.adapters.bentoml_models as m; from pathlib import Path;"
        "m.BentoModels(Path('none/models')).tags('a');"
        "print({'bentoml', 'torch', 'yaml', 'fsspec'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=ROOT,
    )

    assert done.stdout.strip() == "set()"
