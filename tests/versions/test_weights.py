"""Names of weights in the model store, and how it is known that they are whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from bentoml import Tag
from hypothesis import example, given
from hypothesis import strategies as st

from lsml_bento.contract import Project
from lsml_bento.errors import WeightsError
from lsml_bento.versions.weights import check_manifest, is_tag, manifest_of, store_name

PROJECTS = st.builds(
    Project,
    st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True) | st.sampled_from("12"),
    st.integers(0, 10**15 - 1) | st.sampled_from([None, 1, 2]),
)
BACKENDS = (
    st.text(min_size=1)
    | st.from_regex(r"[a-z0-9._-]{1,70}", fullmatch=True)
    | st.sampled_from(
        ["ner", "NER", "ner-p1", "ner-p1.2", "n\N{LATIN SMALL LETTER E}r"]
    )
)
INPUTS = st.tuples(BACKENDS, PROJECTS)


@given(INPUTS)
@example(("-", Project("-", 0)))
@example(("é" * 100, Project("_" * 64, 10**15 - 1)))
def test_every_store_name_is_valid_in_bentoml(named: tuple[str, Project]) -> None:
    name = store_name(*named)

    tag = Tag.from_str(f"{name}:20261123t100000-abcdef")
    assert (tag.name, len(tag.name) <= 63) == (name, True)
    assert is_tag(str(tag))
    assert store_name(*named) == name


@given(INPUTS, INPUTS)
@example(("ner-p1", Project("2", 5)), ("ner", Project("1-p2", 5)))
@example(("ner", Project("a")), ("NER", Project("a")))
@example(("ner", Project("a")), ("ner", Project("A")))
@example(("ner!", Project("1", 5)), ("ner?", Project("1", 5)))
@example(("n" * 60 + "a", Project("1", 5)), ("n" * 60 + "b", Project("1", 5)))
@example(("ner", Project("1")), ("ner", Project("1", 0)))
def test_two_backends_or_projects_never_share_a_name(
    one: tuple[str, Project], other: tuple[str, Project]
) -> None:
    assert (store_name(*one) == store_name(*other)) == (one == other)


def test_usual_names_are_readable() -> None:
    assert store_name("ner", Project("1", 1795426489)) == "ner-p1.1795426489"
    assert store_name("My NER", Project("1", 5)).startswith("my-ner-p1.5-")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "below" / "deeper").mkdir(parents=True)
    (tmp_path / "model.bin").write_bytes(b"weights" * 400_000)
    (tmp_path / "below" / "deeper" / "é.json").write_text("{}")
    (tmp_path / "empty").touch()
    return tmp_path


class TestManifest:
    def test_a_manifest_lists_every_file_with_size_and_hash(
        self, directory: Path
    ) -> None:
        manifest = manifest_of(directory)

        assert {name: size for name, (size, _) in manifest.items()} == {
            "below/deeper/é.json": 2,
            "empty": 0,
            "model.bin": 2_800_000,
        }
        assert manifest["below/deeper/é.json"][1] == (
            "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        )
        check_manifest(directory, manifest)

    def test_additional_files_are_accepted(self, directory: Path) -> None:
        manifest = manifest_of(directory)
        (directory / "cache").touch()

        check_manifest(directory, manifest)

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"weights" * 399_999, "model.bin has 2799993 of 2800000 bytes"),
            (b"", "model.bin has 0 of 2800000 bytes"),
            (b"Weights" + b"weights" * 399_999, "or different content"),
            (b"weights" * 400_000 + b"!", "model.bin has 2800001 of 2800000 bytes"),
        ],
    )
    def test_a_file_that_is_cut_or_changed_is_found(
        self, directory: Path, content: bytes, said: str
    ) -> None:
        manifest = manifest_of(directory)
        (directory / "model.bin").write_bytes(content)

        with pytest.raises(WeightsError, match=f"are damaged: .*{said}"):
            check_manifest(directory, manifest)

    def test_a_missing_file_or_directory_is_found(self, directory: Path) -> None:
        manifest = manifest_of(directory)
        (directory / "empty").unlink()

        with pytest.raises(WeightsError, match=r"are damaged: .*No such file.*empty"):
            check_manifest(directory, manifest)
        with pytest.raises(WeightsError, match="are damaged"):
            check_manifest(directory / "elsewhere", manifest)

    def test_an_empty_directory_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "directory").mkdir()

        with pytest.raises(WeightsError, match=r"save_weights\(\) got no file: write"):
            manifest_of(tmp_path)
