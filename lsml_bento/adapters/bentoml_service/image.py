"""What the image of a bento needs: a directory for state, and lsml-bento itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from bentoml._internal.bento.build_config import BentoEnvSchema
from bentoml.exceptions import BentoMLException
from bentoml.images import Image

from lsml_bento.adapters.bentoml_service.pins import contradiction
from lsml_bento.scaffold.wheel import write_wheel

if TYPE_CHECKING:
    from bentoml._internal.bento.bento import ImageInfo

_OURS = re.compile(
    # By name, or by a directory, file or repository of that name.
    r"^(?:[^#\n]*[\s/])?lsml[-_.]bento"
    r"(?:-\d[^\s/]*\.(?:whl|tar\.gz)|\.git)?/?(?=[\s\[<>=!~;@#]|$)",
    re.IGNORECASE | re.MULTILINE,
)

_MAKE_DATA = "install -d -o 1034 -g 1034 -m 0775 /data"
"""A new volume gets the owner of the directory that it is mounted on. A bento's
processes run as user 1034."""

_KEPT = {"LSML_HOME": "/data", "LSML_MODEL_STORE": "/data/models"}
"""Where state and versions are stored, to outlive the container in a volume."""


class BackendImage(Image):  # type: ignore[misc] # attrs classes of bentoml have no types
    """BentoML's image with ``/data`` and a wheel of the running lsml-bento.

    State and versions are stored in ``/data``, unless the bento sets the variables. If
    the requirements name lsml-bento, no wheel is added.
    """

    def freeze(
        self, bento_fs: Path, envs: list[BentoEnvSchema], platform_: str | None = None
    ) -> ImageInfo:
        """Write the image's files into a bento.

        Raises:
            BentoMLException: if no installer can fulfil the requirements.
            WheelError: if no wheel of lsml-bento can be built.
        """
        if found := contradiction(self.python_requirements):
            raise BentoMLException(
                f"The image cannot be built: {found}. Change or remove that line "
                "in the requirements of the bento"
            )
        if _MAKE_DATA not in self.commands:
            self.commands.append(_MAKE_DATA)
        given = {env.name for env in envs}
        # In place, since `bentoml containerize` reads the same list from bento.yaml.
        envs += [BentoEnvSchema(k, v) for k, v in _KEPT.items() if k not in given]
        if not names_lsml_bento(self.python_requirements):
            wheel = write_wheel(bento_fs / "src" / "wheels")
            self.python_requirements += f"./wheels/{wheel.name}\n"
            if not self.lock_python_packages:
                # Without locking, BentoML does not copy wheels before installing.
                self.build_include("wheels")
        frozen: ImageInfo = super().freeze(bento_fs, envs, platform_)
        return frozen


def backend_image() -> BackendImage:
    """A ``BackendImage``; ``bentofile.yaml`` decides everything else."""
    image = BackendImage()
    # BentoML would fill these in for Debian now, and again for bentofile.yaml.
    image.base_image = ""
    image.commands.clear()
    return image


def names_lsml_bento(requirements: str) -> bool:
    """Whether a line of a requirements file installs lsml-bento."""
    return _OURS.search(requirements) is not None
