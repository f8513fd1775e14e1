"""Help, version and aliases of the command."""

from importlib.metadata import version

from tests.cli.commands import run


def test_help_names_every_command() -> None:
    done = run("--help")
    assert done.returncode == 0
    listed = done.stdout.partition("Commands:")[2].split("\n")
    commands = {line.split()[0] for line in listed if line.strip()}
    assert commands == {
        *("check", "create", "doctor", "start", "worker"),
        *("train", "jobs", "versions", "forget", "preannotate"),
    }
    for name in [*commands, "init"]:
        assert run(name, "-h").returncode == 0


def test_the_version_is_shown() -> None:
    done = run("--version")
    assert done.stdout.startswith(f"lsml-bento {version('lsml-bento')}, Python 3.")


def test_an_unknown_command_is_an_error() -> None:
    done = run("serve")
    assert done.returncode == 2
    assert "No such command 'serve'" in done.stderr
