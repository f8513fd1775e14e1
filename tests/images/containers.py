"""Images that are really built, and containers that really run, without a daemon.

Debian's buildah builds a Dockerfile as root, in a chroot; the official Python image is
replaced by a stand-in that mmdebstrap makes, so that no registry is asked.

Behind a proxy, what a build needs is set from outside: ``LSML_IMAGES_ENV`` holds
variables of the stand-in (``NAME=value``, one a line), ``LSML_IMAGES_VOLUMES`` volumes
of each build (``/here:/there:ro``, separated by spaces). With ``ANY_TORCH=1`` among the
variables, torch is taken from where uv finds it, in place of PyTorch's own index.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from tests.e2e.processes import MARK, ROOT, Server, free_port
from tests.e2e.serving import BIN

USER = 1034
RELEASE = "bookworm"
BASES = ("docker.io/library/python:3.11-slim", "docker.io/library/python:3.12-slim")
CACHE = ROOT / ".cache" / "images"

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PACKAGES = "python3,python3-venv,python3-pip,python-is-python3,ca-certificates,bash"
_UV = """\
#!/bin/sh
[ -z "$ANY_TORCH" ] || unset UV_TORCH_BACKEND
exec /usr/local/lib/uv "$@"
"""
_VOLUMES = ("/etc/apt:/etc/apt:ro", "/etc/resolv.conf:/etc/resolv.conf:ro")


class ToolMissingError(AssertionError):
    """What builds images is not installed."""

    def __init__(self, tool: str) -> None:
        super().__init__(
            f"{tool} is missing, or this is not root: as root, run "
            "`apt-get install -y buildah mmdebstrap`"
        )


class Buildah:
    """buildah with a store of its own, which holds the stand-in.

    Args:
        store: a directory for images.
    """

    def __init__(self, store: Path) -> None:
        for tool in ("buildah", "mmdebstrap"):
            if shutil.which(tool) is None or os.getuid() != 0:
                raise ToolMissingError(tool)
        self._store = store
        self._root = ["--root", str(store / "root"), "--runroot", str(store / "run")]
        self._make_base()

    @property
    def environ(self) -> dict[str, str]:
        """What every call of ``buildah`` gets."""
        return {**os.environ, "BUILDAH_ISOLATION": "chroot"}

    def command(self, *words: object) -> list[str]:
        """``buildah WORDS`` on this store."""
        return ["buildah", *self._root, *map(str, words)]

    def call(self, *words: object, timeout_s: float = 900) -> str:
        """What ``buildah WORDS`` prints."""
        done = subprocess.run(
            self.command(*words),
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout.strip()

    def build(self, context: Path, dockerfile: Path, *options: str) -> Image:
        """Build a Dockerfile as it is."""
        name = f"localhost/{uuid.uuid4().hex}"
        volumes = [*_VOLUMES, *os.environ.get("LSML_IMAGES_VOLUMES", "").split()]
        mounts = [word for volume in volumes for word in ("-v", volume)]
        reach = ["--pull-never", "--network", "host", *mounts]
        self.call("bud", *reach, *options, "-f", dockerfile, "-t", name, context)
        return Image(self, name)

    def close(self) -> None:
        """Remove all that was built; gigabytes, which pytest would keep."""
        self.call("rm", "--all")
        self.call("rmi", "--all", "--force")
        # Its overlay file system leaves the directory mounted on itself.
        for partition in psutil.disk_partitions(all=True):
            if Path(partition.mountpoint).is_relative_to(self._store):
                subprocess.run(["umount", partition.mountpoint], check=True)
        shutil.rmtree(self._store, ignore_errors=True)

    def _make_base(self) -> None:
        """The stand-in for the official images of Python."""
        CACHE.mkdir(parents=True, exist_ok=True)
        archive = CACHE / f"{RELEASE}.tar"
        if not archive.exists():
            made = archive.with_suffix(".new.tar")
            include = f"--include={_PACKAGES}"
            command = ["mmdebstrap", "--variant=minbase", include, RELEASE, str(made)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-4000:]
            made.rename(archive)
        container = self.call("from", "scratch")
        self.call("add", container, archive, "/")
        self.call("copy", container, BIN / "uv", "/usr/local/lib/uv")
        wrapper = CACHE / "uv"
        wrapper.write_text(_UV)
        self.call("copy", "--chmod=755", container, wrapper, "/usr/local/bin/uv")
        # Debian's own Python asks before pip writes into it; the official image's not.
        settings = [f"PATH={_PATH}", "PIP_BREAK_SYSTEM_PACKAGES=1"]
        settings += ["UV_BREAK_SYSTEM_PACKAGES=1"]
        settings += os.environ.get("LSML_IMAGES_ENV", "").splitlines()
        for setting in filter(None, settings):
            self.call("config", "--env", setting, container)
        first, *others = BASES
        self.call("commit", "--rm", container, first)
        for other in others:
            self.call("tag", first, other)


@dataclass(frozen=True)
class Image:
    """An image that was built."""

    buildah: Buildah
    name: str

    @cached_property
    def configuration(self) -> dict[str, Any]:
        """What the image says of a container: ``User``, ``Env``, ``Cmd``, .."""
        found = json.loads(self.buildah.call("inspect", "--type", "image", self.name))
        configuration: dict[str, Any] = found["OCIv1"]["config"]
        return configuration

    @property
    def variables(self) -> dict[str, str]:
        """The environment that is baked in."""
        pairs = (entry.partition("=") for entry in self.configuration["Env"])
        return {name: value for name, _, value in pairs}

    def says(self, *command: str) -> str:
        """What a command prints in a new container, without the entrypoint."""
        container = self.buildah.call("from", "--pull-never", self.name)
        try:
            return self.buildah.call("run", container, "--", *command)
        finally:
            self.buildah.call("rm", container)

    def container(
        self,
        name: str,
        directory: Path,
        *arguments: str,
        port: int | None = None,
        volumes: Mapping[Path, str] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Container:
        """A container, not started: the entrypoint with arguments, else with ``Cmd``.

        Args:
            name: for messages.
            directory: for its log.
            arguments: in place of the image's.
            port: that it answers on; a free one by default.
            volumes: directories of this machine, and where they are mounted.
            environ: variables, as ``docker run --env`` sets them.
        """
        made = self.buildah.call("from", "--pull-never", self.name)
        mark = uuid.uuid4().hex
        entry = self.configuration.get("Entrypoint") or []
        words = list(arguments) or self.configuration.get("Cmd") or []
        options = [f"--env={MARK}={mark}"]
        options += [f"--env={key}={value}" for key, value in (environ or {}).items()]
        options += [f"--volume={a}:{b}" for a, b in (volumes or {}).items()]
        return Container(
            name=name,
            command=self.buildah.command("run", *options, made, "--", *entry, *words),
            port=port or free_port(),
            log_file=directory / f"{name}.log",
            environ=self.buildah.environ,
            mark=mark,
            buildah=self.buildah,
            container=made,
        )


@dataclass
class Container(Server):
    """A container's processes, which a runtime signals by the first of them."""

    buildah: Buildah = field(kw_only=True)
    container: str = field(kw_only=True)

    def tree(self) -> list[psutil.Process]:
        """All that lives of it; a process that named itself has no mark any more."""
        found = super().tree()
        with suppress(psutil.NoSuchProcess):
            found += psutil.Process(self.pid).children(recursive=True)
        return list(dict.fromkeys(found))

    @property
    def inside(self) -> list[psutil.Process]:
        """Its processes without buildah's, the first one first."""
        found = []
        for process in self.tree():
            with suppress(psutil.Error):
                if not process.cmdline()[0].startswith("buildah"):
                    found.append(process)
        return sorted(found, key=psutil.Process.create_time)

    def kill(self) -> None:
        """Kill every process of it, those too that buildah's end would hide."""
        for process in self.tree():
            with suppress(psutil.Error):
                process.kill()
        super().kill()

    def signal(self) -> None:
        """What ``docker stop`` sends to the first process."""
        if inside := self.inside:
            with suppress(psutil.NoSuchProcess):
                inside[0].send_signal(self.stop_signal)

    def __enter__(self) -> Container:
        if self.process is None:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.buildah.call("rm", self.container)


def owned(directory: Path) -> Path:
    """A directory as a fresh volume on ``/data`` is: the image's user owns it."""
    directory.mkdir(parents=True, exist_ok=True)
    os.chown(directory, USER, USER)
    return directory
