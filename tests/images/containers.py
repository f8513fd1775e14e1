"""Builds real images and runs real containers, without a daemon.

Debian's buildah builds a Dockerfile as root, in a chroot. mmdebstrap makes a stand-in
for the official Python image, so that no registry is needed.

Behind a proxy, set ``LSML_IMAGES_ENV`` to variables of the stand-in (``NAME=value``,
one per line) and ``LSML_IMAGES_VOLUMES`` to volumes of each build (``/here:/there:ro``,
separated by spaces). With ``ANY_TORCH=1`` among the variables, uv installs torch from
its default index instead of PyTorch's.
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
    """A tool for building images is not installed."""

    def __init__(self, tool: str) -> None:
        super().__init__(
            f"{tool} is missing, or this is not root: as root, run "
            "`apt-get install -y buildah mmdebstrap`"
        )


class Buildah:
    """buildah with its own store, which holds the stand-in.

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
        """The options of every call of ``buildah``."""
        return {**os.environ, "BUILDAH_ISOLATION": "chroot"}

    def command(self, *words: object) -> list[str]:
        """Run ``buildah WORDS`` on this store."""
        return ["buildah", *self._root, *map(str, words)]

    def call(self, *words: object, timeout_s: float = 900) -> str:
        """The output of ``buildah WORDS``."""
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
        """Build a Dockerfile unchanged."""
        name = f"localhost/{uuid.uuid4().hex}"
        volumes = [*_VOLUMES, *os.environ.get("LSML_IMAGES_VOLUMES", "").split()]
        mounts = [word for volume in volumes for word in ("-v", volume)]
        reach = ["--pull-never", "--network", "host", *mounts]
        self.call("bud", *reach, *options, "-f", dockerfile, "-t", name, context)
        return Image(self, name)

    def close(self) -> None:
        """Remove everything that was built: gigabytes, which pytest would keep."""
        self.call("rm", "--all")
        self.call("rmi", "--all", "--force")
        # The overlay file system leaves the directory mounted on itself.
        for partition in psutil.disk_partitions(all=True):
            if Path(partition.mountpoint).is_relative_to(self._store):
                subprocess.run(["umount", partition.mountpoint], check=True)
        shutil.rmtree(self._store, ignore_errors=True)

    def _make_base(self) -> None:
        """The stand-in for the official Python images."""
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
        # Unlike the official image, Debian's Python does not let pip install into it.
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
    """A built image."""

    buildah: Buildah
    name: str

    @cached_property
    def configuration(self) -> dict[str, Any]:
        """The config of the image: ``User``, ``Env``, ``Cmd``, .."""
        found = json.loads(self.buildah.call("inspect", "--type", "image", self.name))
        configuration: dict[str, Any] = found["OCIv1"]["config"]
        return configuration

    @property
    def variables(self) -> dict[str, str]:
        """The environment of the image."""
        pairs = (entry.partition("=") for entry in self.configuration["Env"])
        return {name: value for name, _, value in pairs}

    def says(self, *command: str) -> str:
        """The output of a command in a new container, without the entrypoint."""
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
        """Create a container that runs the entrypoint with arguments, or with ``Cmd``.

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
    """A container's processes. A runtime sends signals to the first of them."""

    buildah: Buildah = field(kw_only=True)
    container: str = field(kw_only=True)

    def tree(self) -> list[psutil.Process]:
        """All live processes; one that changed its title has lost its mark."""
        found = super().tree()
        with suppress(psutil.NoSuchProcess):
            found += psutil.Process(self.pid).children(recursive=True)
        return list(dict.fromkeys(found))

    @property
    def inside(self) -> list[psutil.Process]:
        """The processes without those of buildah, the first one first."""
        found = []
        for process in self.tree():
            with suppress(psutil.Error):
                if not process.cmdline()[0].startswith("buildah"):
                    found.append(process)
        return sorted(found, key=psutil.Process.create_time)

    def kill(self) -> None:
        """Kill every process, including those that buildah leaves behind."""
        for process in self.tree():
            with suppress(psutil.Error):
                process.kill()
        super().kill()

    def signal(self) -> None:
        """Send what ``docker stop`` sends to the first process."""
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
    """A directory like a new volume on ``/data``: the image's user owns it."""
    directory.mkdir(parents=True, exist_ok=True)
    os.chown(directory, USER, USER)
    return directory
