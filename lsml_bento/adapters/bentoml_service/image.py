"""What every image of a bento needs: a directory for state, and lsml-bento itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from bentoml.images import Image

from lsml_bento.wheel import write_wheel

if TYPE_CHECKING:
    from bentoml._internal.bento.bento import ImageInfo
    from bentoml._internal.bento.build_config import BentoEnvSchema

_OURS = re.compile(r"^\s*(?:\./wheels/)?lsml[-_.]bento\b", re.IGNORECASE | re.MULTILINE)

_MAKE_DATA = "install -d -o 1034 -g 1034 -m 0775 /data"
"""A new volume belongs to whom the directory belongs to that it is mounted on; a
bento's processes run as 1034."""


class BackendImage(Image):  # type: ignore[misc] # attrs classes of bentoml have no types
    """BentoML's image, to which a build adds ``/data`` and a wheel of this version.

    A requirement that names lsml-bento stays as it is, and no wheel is made.
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
        if _OURS.search(self.python_requirements) is None:
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
