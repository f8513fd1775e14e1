"""What every image of a bento needs: a directory for state, and lsml-bento itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from bentoml._internal.bento.build_config import BentoEnvSchema
from bentoml.images import Image

from lsml_bento.scaffold.wheel import write_wheel

if TYPE_CHECKING:
    from bentoml._internal.bento.bento import ImageInfo

_OURS = re.compile(
    # By its name, or by a directory, a file or a repository of that name.
    r"^(?:[^#\n]*[\s/])?lsml[-_.]bento"
    r"(?:-\d[^\s/]*\.(?:whl|tar\.gz)|\.git)?/?(?=[\s\[<>=!~;@#]|$)",
    re.IGNORECASE | re.MULTILINE,
)

_MAKE_DATA = "install -d -o 1034 -g 1034 -m 0775 /data"
"""A new volume belongs to whom the directory belongs to that it is mounted on; a
bento's processes run as 1034."""

_KEPT = {"LSML_HOME": "/data", "LSML_MODEL_STORE": "/data/models"}
"""What outlives the container, where a volume is mounted on ``/data``."""


class BackendImage(Image):  # type: ignore[misc] # attrs classes of bentoml have no types
    """BentoML's image, to which a build adds ``/data`` and a wheel of this version.

    State and versions are kept in ``/data``, unless the bento's variables say where. A
    requirement that names lsml-bento stays as it is, and no wheel is made.
    """

    def freeze(
        self, bento_fs: Path, envs: list[BentoEnvSchema], platform_: str | None = None
    ) -> ImageInfo:
        """Write the image's files into a bento.

        Raises:
            WheelError: if there is nothing to make a wheel of.
        """
        if _MAKE_DATA not in self.commands:
            self.commands.append(_MAKE_DATA)
        given = {env.name for env in envs}
        # In place, as bento.yaml gets the same list: `containerize` goes by that one.
        envs += [BentoEnvSchema(k, v) for k, v in _KEPT.items() if k not in given]
        if not names_lsml_bento(self.python_requirements):
            wheel = write_wheel(bento_fs / "src" / "wheels")
            self.python_requirements += f"./wheels/{wheel.name}\n"
            if not self.lock_python_packages:
                # What locks copies the wheels before it installs; this does not.
                self.build_include("wheels")
        frozen: ImageInfo = super().freeze(bento_fs, envs, platform_)
        return frozen


def backend_image() -> BackendImage:
    """An image that leaves everything else to ``bentofile.yaml``."""
    image = BackendImage()
    # BentoML fills these in for Debian now, and once more for what the file says.
    image.base_image = ""
    image.commands.clear()
    return image


def names_lsml_bento(requirements: str) -> bool:
    """Whether a line of a requirements file installs lsml-bento."""
    return _OURS.search(requirements) is not None
