"""The functions of ``label_studio_ml.utils``, based on label-studio-sdk."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any
from urllib.parse import urlsplit

from label_studio_sdk._extensions.label_studio_tools.core.utils import io as sdk_io
from label_studio_sdk._extensions.label_studio_tools.core.utils.params import get_env

from lsml_bento.model.base_class import current_media
from lsml_bento.model.media import names_a_file

package_name = "label-studio-ml"
__version__ = "2.0.1.dev0"
"""The version of HumanSignal's package that this module follows."""

DATA_UNDEFINED_NAME = "$undefined$"
"""The key of ``task["data"]`` in tasks that were imported as a list of URLs."""


# Label configs


def get_single_tag_keys(
    parsed_label_config: Mapping[str, Any], control_type: str, object_type: str
) -> tuple[str, str, str, list[str]]:
    """The names in a label config with one control tag on one object tag.

    Args:
        parsed_label_config: ``self.parsed_label_config``.
        control_type: for example ``"Choices"``.
        object_type: for example ``"Text"``.

    Returns:
        ``(from_name, to_name, value, labels)``; value is a key of ``task["data"]``.

    Raises:
        ValueError: if the label config has other or more control tags.
    """
    described = [
        f"<{info['type']}> on <{'> and <'.join(i['type'] for i in info['inputs'])}>"
        for info in parsed_label_config.values()
    ]
    if described != [f"<{control_type}> on <{object_type}>"]:
        raise ValueError(
            f"the model needs a label config with one <{control_type}> on one "
            f"<{object_type}>, and this one has: "
            f"{', '.join(described) or 'no control tag'}"
        )
    [(from_name, info)] = parsed_label_config.items()
    value: str = info["inputs"][0]["value"]
    return from_name, info["to_name"][0], value, info["labels"]


def get_first_tag_keys(
    parsed_label_config: Mapping[str, Any], control_type: str, object_type: str
) -> tuple[str, dict[str, Any]] | tuple[None, None]:
    """The first control tag of a type on an object tag of a type.

    Returns:
        ``(from_name, its entry in the parsed label config)``, or ``(None, None)``.
    """
    for from_name, info in parsed_label_config.items():
        on = {tag["type"] for tag in info["inputs"]}
        if info["type"] == control_type and object_type in on:
            return from_name, info
    return None, None


def match_labels(input: str, labels: Sequence[str]) -> list[str]:
    """The most similar label for each line of a text, such as an LLM's output."""
    return [
        max(labels, key=lambda label: SequenceMatcher(None, line, label).ratio())
        for line in input.splitlines()
    ]


# Tasks with annotations


def is_skipped(completion: Mapping[str, Any]) -> bool:
    """Whether a task has one annotation, and it was skipped."""
    annotations = completion["annotations"]
    if len(annotations) != 1:
        return False
    return bool(annotations[0].get("skipped") or annotations[0].get("was_cancelled"))


def get_choice(completion: Mapping[str, Any]) -> str:
    """The first choice in the first annotation of a task."""
    choice: str = completion["annotations"][0]["result"][0]["value"]["choices"][0]
    return choice


# Files


def get_local_path(
    url: str,
    cache_dir: str | None = None,
    project_dir: str | None = None,
    hostname: str | None = None,
    image_dir: str | None = None,
    access_token: str | None = None,
    download_resources: bool = True,
    task_id: int | str | None = None,
) -> str:
    """The path of a local copy of a file that task data refers to.

    In a server this does the same as the model's ``get_local_path``. Elsewhere it calls
    label-studio-sdk's function.

    Raises:
        MediaError: if the file cannot be read, or reading it is not allowed.
    """
    options = {
        "cache_dir": cache_dir,
        "project_dir": project_dir,
        "image_dir": image_dir,
        "download_resources": download_resources,
    }
    media = current_media()
    if media is None:
        path: str = sdk_io.get_local_path(
            url,
            hostname=hostname,
            access_token=access_token,
            task_id=task_id,
            **options,
        )
        return path
    return media.local_path(
        url,
        task_id=task_id,
        ls_host=hostname,
        ls_access_token=access_token,
        **options,
    )


def get_image_local_path(
    url: str,
    image_cache_dir: str | None = None,
    project_dir: str | None = None,
    image_dir: str | None = None,
    label_studio_host: str | None = None,
    label_studio_access_token: str | None = None,
    task_id: int | str | None = None,
) -> str:
    """``get_local_path`` with the argument names of older versions.

    Raises:
        MediaError: if the file cannot be read, or reading it is not allowed.
    """
    host = label_studio_host or get_env("HOSTNAME") or ""
    # In a container HOSTNAME is the container's name, not Label Studio's URL.
    return get_local_path(
        url,
        cache_dir=image_cache_dir,
        project_dir=project_dir,
        hostname=host if host.startswith(("http://", "https://")) else None,
        image_dir=image_dir,
        access_token=label_studio_access_token,
        task_id=task_id,
    )


def get_image_size(filepath: str) -> tuple[int, int]:
    """Width and height of an image in pixels, after its EXIF rotation."""
    from PIL import Image, ImageOps  # noqa: PLC0415 - few models read images

    with Image.open(filepath) as image:
        size: tuple[int, int] = ImageOps.exif_transpose(image).size
    return size


def is_valid_url(path: str) -> bool:
    """Whether a text is a URL with scheme and host."""
    try:
        parts = urlsplit(path)
    except ValueError:
        return False
    return bool(parts.scheme and parts.netloc)


def is_preload_needed(url: str) -> bool:
    """Whether a text in task data is the URL of a file.

    An existing path on this machine does not count: the authors of task data may not be
    allowed to read this machine's files.
    """
    return names_a_file(url)


# Caches, and comparisons in tests


class InMemoryLRUDictCache:
    """An LRU cache.

    Args:
        capacity: maximum number of values.
    """

    def __init__(self, capacity: int = 1) -> None:
        self.cache: OrderedDict[Any, Any] = OrderedDict()
        self.capacity = capacity

    def __contains__(self, item: Any) -> bool:
        return item in self.cache

    def __str__(self) -> str:
        return str(self.cache)

    def get(self, key: Any) -> Any:
        """The value of a key, None if it is not cached."""
        if key not in self.cache:
            return None
        self.cache.move_to_end(key)
        return self.cache[key]

    def put(self, key: Any, value: Any) -> None:
        self.cache[key] = value
        self.cache.move_to_end(key)
        while len(self.cache) > self.capacity:
            self.cache.popitem(last=False)


def compare_nested_structures(
    a: Any,
    b: Any,
    path: str = "",
    rel: float | None = 1e-4,
    abs: float | None = None,
) -> None:
    """Compare predictions in a test, with a tolerance for numbers.

    Raises:
        AssertionError: naming the path of the first difference.
    """
    where = path or "the top"
    if isinstance(a, dict) and isinstance(b, dict):
        _same(a.keys(), b.keys(), f"the keys at {where}")
        for key in a:
            compare_nested_structures(a[key], b[key], f"{path}.{key}", rel, abs)
    elif isinstance(a, list) and isinstance(b, list):
        _same(len(a), len(b), f"the length at {where}")
        for place, (one, other) in enumerate(zip(a, b, strict=True)):
            compare_nested_structures(one, other, f"{path}[{place}]", rel, abs)
    elif isinstance(a, float) and isinstance(b, float):
        import pytest  # noqa: PLC0415 - only tests have it

        _same(a, pytest.approx(b, rel=rel, abs=abs), where)
    else:
        _same(a, b, where)


def _same(found: Any, expected: Any, where: str) -> None:
    if found != expected:
        raise AssertionError(f"{where}: {found!r} is not {expected!r}")
