"""How devices are dealt out; what is served is tested in ``tests/e2e/test_bentoml``."""

import pytest

from lsml_bento.adapters.bentoml_service import share


@pytest.mark.parametrize(
    ("visible", "workers", "shares"),
    [
        ("0,1", 2, ["0", "1"]),
        ("0,1,2,3", 2, ["0,2", "1,3"]),
        ("GPU-a,GPU-b", 1, ["GPU-a,GPU-b"]),
        ("0,1", 3, ["0", "1", "0"]),
        ("5", 2, ["5", "5"]),
    ],
)
def test_workers_share_the_devices_evenly(
    visible: str, workers: int, shares: list[str]
) -> None:
    assert [share(visible, index, workers) for index in range(workers)] == shares
