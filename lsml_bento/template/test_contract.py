"""Label Studio's requests, without a server: run `pytest` in this directory."""

from pathlib import Path

import pytest
from label_studio_sdk.label_interface import LabelInterface
from lsml_bento.testing import client_for

HERE = Path(__file__).parent
LABEL_CONFIG = (HERE / "label_config.xml").read_text(encoding="utf-8")
PROJECT = "1.1700000000"


@pytest.fixture
def client():
    with client_for("model:NewModel", HERE) as client:
        yield client


def predict(client, tasks):
    body = {"tasks": tasks, "project": PROJECT, "label_config": LABEL_CONFIG}
    answer = client.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def test_health(client):
    answer = client.get("/health")
    assert answer.json()["status"] == "UP"


def test_setup_names_the_model_version(client):
    answer = client.post("/setup", json={"project": PROJECT, "schema": LABEL_CONFIG})
    assert answer.status_code == 200, answer.text
    assert answer.json()["model_version"]


def test_every_prediction_follows_the_label_config(client):
    interface = LabelInterface(LABEL_CONFIG)
    tasks = [{"id": i, "data": interface.generate_sample_task()} for i in range(3)]
    results = predict(client, tasks)
    assert len(results) == len(tasks)
    for slot in results:
        for prediction in slot if isinstance(slot, list) else [slot]:
            assert interface.validate_prediction(prediction)
