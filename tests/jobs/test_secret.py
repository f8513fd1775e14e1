"""One secret for all processes of a home."""

from __future__ import annotations

import multiprocessing
import stat
from pathlib import Path

import pytest
from pydantic import SecretStr

from lsml_bento.errors import SettingsError
from lsml_bento.jobs.secret import FILE, secret_of

SPAWN = multiprocessing.get_context("spawn")


def test_the_environment_wins_and_no_file_is_touched(tmp_path: Path) -> None:
    home = tmp_path / "home"

    assert secret_of(SecretStr("schlüssel"), home) == "schlüssel".encode()
    assert not home.exists()


def test_a_home_keeps_one_secret_that_only_its_owner_reads(tmp_path: Path) -> None:
    home = tmp_path / "a" / "home"

    first = secret_of(None, home)

    assert len(first) == 64
    assert secret_of(None, home) == first
    assert secret_of(None, tmp_path / "other") != first
    assert stat.S_IMODE((home / FILE).stat().st_mode) == 0o600
    assert [path.name for path in home.iterdir()] == [FILE]


def test_processes_that_race_get_one_secret(tmp_path: Path) -> None:
    with SPAWN.Pool(4) as pool:
        for number in range(5):
            home = tmp_path / str(number)
            found = pool.starmap(secret_of, [(None, home)] * 12, chunksize=1)
            assert len(set(found)) == 1
            assert [path.name for path in home.iterdir()] == [FILE]


def test_a_file_that_can_not_be_read_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()

    with pytest.raises(SettingsError) as raised:
        secret_of(None, tmp_path)

    assert str(raised.value) == (
        f"the secret in {tmp_path / FILE} can be neither read nor made (Is a "
        "directory): give this user the right to, or set LSML_SECRET_KEY, the same "
        "for every process of the backend"
    )


def test_a_home_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(SettingsError, match=r"file/home/secret\.key .*LSML_SECRET_KEY"):
        secret_of(None, tmp_path / "file" / "home")


@pytest.mark.parametrize("content", ["", "short\n"])
def test_a_file_without_a_whole_secret_is_not_used(
    content: str, tmp_path: Path
) -> None:
    (tmp_path / FILE).write_text(content)

    with pytest.raises(SettingsError, match=r"should hold a secret .* delete it"):
        secret_of(None, tmp_path)
