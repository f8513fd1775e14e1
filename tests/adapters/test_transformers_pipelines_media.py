"""Pipelines of transformers as backends: images and recordings."""

from __future__ import annotations

import shutil
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from lsml_bento.adapters.transformers_pipelines.audio import read_audio, resampled
from lsml_bento.adapters.transformers_pipelines.images import read_image
from lsml_bento.errors import MediaError, ModelSetupError
from tests.adapters import tiny_models
from tests.adapters.pipelines import Make, maker, predicted, problems

KINDS = ["cat", "dog", "sloth bear"]
CHOICES = """\
<View>
  <Image name="image" value="$image"/>
  <Choices name="kind" toName="image">
    <Choice value="Cat"/><Choice value="Dog"/>
    <Choice value="Bear" predicted_values="sloth bear"/>
  </Choices>
</View>
"""
BOXES = """\
<View>
  <Image name="image" value="$image"/>
  <RectangleLabels name="box" toName="image">
    <Label value="Cat"/><Label value="Dog"/>
    <Label value="Bear" predicted_values="sloth bear"/>
  </RectangleLabels>
</View>
"""
SPEECH = """\
<View>
  <Audio name="audio" value="$sound"/>
  <TextArea name="words" toName="audio"/>
</View>
"""


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Make:
    return maker(monkeypatch, tmp_path)


def pictures(directory: Path, *sizes: tuple[int, int]) -> list[dict[str, Any]]:
    """Tasks with an image each, of random pixels."""
    random = np.random.default_rng(0)
    tasks = []
    for number, (width, height) in enumerate(sizes, 1):
        pixels = random.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(directory / f"{number}.png")
        tasks.append({"id": number, "data": {"image": f"/data/{number}.png"}})
    return tasks


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.image_classifier(tmp_path_factory.mktemp("m") / "vit", KINDS)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.detector(tmp_path_factory.mktemp("m") / "yolos", KINDS)


def plain(pipeline: str, model: Path) -> Any:
    """The same pipeline without anything of ours."""
    make: Any = transformers.pipeline
    return make(pipeline, model=str(model))


def test_an_images_class_is_its_choice(
    make: Make, classifier: Path, tmp_path: Path
) -> None:
    tasks = pictures(tmp_path, (40, 30), (20, 50), (64, 64))
    slots = predicted(make("image-classification", classifier, CHOICES), tasks)
    known = {"cat": "Cat", "dog": "Dog", "sloth bear": "Bear"}
    best = [
        plain("image-classification", classifier)(str(tmp_path / f"{n}.png"))[0]
        for n in (1, 2, 3)
    ]
    found = [slot["result"][0]["value"]["choices"] for slot in slots]
    assert found == [[known[one["label"]]] for one in best]
    scores = [slot["score"] for slot in slots]
    assert scores == pytest.approx([one["score"] for one in best], abs=1e-4)
    assert problems(CHOICES, slots, tasks) == []


def test_objects_are_boxes_in_percent_of_their_image(
    make: Make, detector: Path, tmp_path: Path
) -> None:
    tasks = pictures(tmp_path, (80, 40), (50, 50), (80, 40))
    slots = predicted(make("object-detection", detector, BOXES, threshold=0), tasks)
    for number, (width, height) in enumerate([(80, 40), (50, 50), (80, 40)], 1):
        path = str(tmp_path / f"{number}.png")
        expected = plain("object-detection", detector)(path, threshold=0)
        regions = slots[number - 1]["result"]
        assert len(regions) == len(expected) == 4
        for region, one in zip(regions, expected, strict=True):
            value, box = region["value"], one["box"]
            size = region["original_width"], region["original_height"]
            assert size == (width, height)
            left = min(max(box["xmin"], 0), width)
            right = min(max(box["xmax"], 0), width)
            assert value["x"] * width / 100 == pytest.approx(left, abs=1)
            assert value["width"] * width / 100 == pytest.approx(right - left, abs=1)
            top, bottom = (min(max(box[k], 0), height) for k in ("ymin", "ymax"))
            assert value["y"] * height / 100 == pytest.approx(top, abs=1)
            assert value["height"] * height / 100 == pytest.approx(bottom - top, abs=1)
            assert region["score"] == pytest.approx(one["score"], abs=1e-4)
    assert problems(BOXES, slots, tasks) == []


def test_an_image_is_measured_as_a_browser_turns_it(
    make: Make, detector: Path, tmp_path: Path
) -> None:
    [task] = pictures(tmp_path, (80, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    with Image.open(tmp_path / "1.png") as image:
        image.save(tmp_path / "1.jpg", exif=exif)
    turned = {"id": 2, "data": {"image": "/data/1.jpg"}}
    model = make("object-detection", detector, BOXES, threshold=0)
    first, second = predicted(model, [task, turned])
    assert {r["original_width"] for r in first["result"]} == {80}
    assert {r["original_width"] for r in second["result"]} == {40}


def test_a_file_that_is_not_an_image_affects_only_its_own_task(
    make: Make, classifier: Path, tmp_path: Path
) -> None:
    first, second, third, fourth = pictures(tmp_path, *[(9, 9)] * 4)
    (tmp_path / "2.png").write_text("not an image")
    (tmp_path / "3.png").unlink()
    model = make("image-classification", classifier, CHOICES)
    slots = predicted(model, [first, second, third, fourth])
    assert slots[0]["result"]
    assert slots[3]["result"]
    assert [str(slot)[:47] for slot in slots[1:3]] == [
        "the image '/data/2.png' cannot be read: Unident",
        "/data/3.png of task 3 is not there",
    ]
    assert all(isinstance(slot, MediaError) for slot in slots[1:3])


def test_an_image_with_odd_exif_affects_only_its_own_task(
    make: Make, classifier: Path, tmp_path: Path
) -> None:
    good, odd = pictures(tmp_path, (9, 9), (9, 9))
    exif = Image.Exif()
    exif[0x0112], exif[0x0100] = 6, 1
    broken = exif.tobytes().replace(b"\x01\x00\x00\x04", b"\x01\x00\x00\x02")
    with Image.open(tmp_path / "2.png") as image:
        image.save(tmp_path / "2.png", exif=broken)
    model = make("image-classification", classifier, CHOICES)
    first, second = predicted(model, [good, odd])
    assert first["result"]
    assert isinstance(second, MediaError)
    assert str(second).startswith("the image '/data/2.png' cannot be read: ")


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_an_image_of_16_bits_keeps_its_shades(tmp_path: Path, kind: str) -> None:
    shades = np.array([[0, 0x1234, 0x8000, 0xFFFF]], np.uint16)
    path = tmp_path / f"a.{kind}"
    Image.fromarray(shades).save(path)
    pixels = np.asarray(read_image(str(path), "/data/a"))
    assert pixels.tolist() == [[[n] * 3 for n in (0, 0x12, 0x80, 0xFF)]]


def test_several_images_of_a_task_are_refused(make: Make, classifier: Path) -> None:
    config = CHOICES.replace('value="$image"', 'valueList="$image"')
    with pytest.raises(ModelSetupError) as refused:
        make("image-classification", classifier, config)
    said = '<Image> whose valueList="$image" is more than a key of the data'
    assert said in str(refused.value)


def test_a_box_is_exact_though_its_model_was_saved_in_half_precision(
    make: Make, detector: Path, tmp_path: Path
) -> None:
    half = tmp_path / "half"
    shutil.copytree(detector, half)
    read: Any = transformers.AutoModelForObjectDetection.from_pretrained
    model = read(detector).to(torch.bfloat16)
    model.save_pretrained(half)
    model.float().save_pretrained(tmp_path / "float")
    tasks = pictures(tmp_path, (80, 40))
    shutil.copy(half / "preprocessor_config.json", tmp_path / "float")
    found = [
        predicted(make("object-detection", place, BOXES, threshold=0), tasks)[0]
        for place in (half, tmp_path / "float")
    ]
    boxes = [[r["value"] for r in one["result"]] for one in found]
    assert boxes[0] == boxes[1]


# Recordings


def record(path: Path, seconds: float, rate: int, channels: int = 1) -> None:
    noise = np.random.default_rng(0).normal(0, 0.2, (int(seconds * rate), channels))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((noise.clip(-1, 1) * 32767).astype("<i2").tobytes())


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.recogniser(tmp_path_factory.mktemp("m") / "ctc", "abcdefgh")


def test_a_recording_becomes_text(make: Make, recogniser: Path, tmp_path: Path) -> None:
    record(tmp_path / "a.wav", 1, 16_000)
    record(tmp_path / "b.wav", 2, 44_100, channels=2)
    (tmp_path / "c.wav").write_bytes(b"RIFF of something else")
    tasks = [
        {"id": n, "data": {"sound": f"/data/{name}.wav"}}
        for n, name in enumerate("abc", 1)
    ]
    model = make("automatic-speech-recognition", recogniser, SPEECH)
    first, second, third = predicted(model, tasks)
    samples = read_audio(str(tmp_path / "a.wav"), "", 16_000)
    expected = plain("automatic-speech-recognition", recogniser)(samples)["text"]
    assert first["result"][0]["value"]["text"] == [expected.strip()]
    assert second["result"][0]["value"]["text"][0]
    assert str(third).startswith("the recording '/data/c.wav' cannot be decoded: ")
    assert problems(SPEECH, [first, second], tasks[:2]) == []


def test_a_long_recording_is_read_in_windows(
    make: Make, recogniser: Path, tmp_path: Path
) -> None:
    record(tmp_path / "long.wav", 45, 16_000)
    model = make("automatic-speech-recognition", recogniser, SPEECH)
    task = {"id": 1, "data": {"sound": "/data/long.wav"}}
    [slot] = predicted(model, [task])
    assert slot["result"][0]["value"]["text"][0]


def test_whisper_hears_recordings_of_different_lengths_in_one_batch(
    make: Make, tmp_path: Path
) -> None:
    place = tiny_models.whisper(tmp_path / "whisper", "abcdefgh")
    record(tmp_path / "short.wav", 0.5, 16_000)
    record(tmp_path / "long.wav", 2.5, 8_000)
    tasks = [
        {"id": n, "data": {"sound": f"/data/{name}.wav"}}
        for n, name in enumerate(("short", "long"), 1)
    ]
    extra = {"language": "en", "task": "transcribe"}
    model = make("automatic-speech-recognition", place, SPEECH, **extra)
    slots = predicted(model, tasks)
    assert all(slot["result"][0]["value"]["text"][0] for slot in slots)
    alone = [predicted(model, [task])[0] for task in tasks]
    assert [s["result"][0]["value"] for s in slots] == [
        s["result"][0]["value"] for s in alone
    ]
    assert problems(SPEECH, slots, tasks) == []


@pytest.mark.parametrize("have", [8_000, 22_050, 44_100, 48_000])
def test_a_tone_stays_the_same_tone_at_another_rate(have: int) -> None:
    seconds = 125.25  # more than two blocks
    tone = np.sin(2 * np.pi * 440 * np.arange(int(seconds * have)) / have)
    found = resampled(tone, have, 16_000)
    expected = np.sin(2 * np.pi * 440 * np.arange(len(found)) / 16_000)
    assert len(found) == pytest.approx(seconds * 16_000, abs=2)
    inner = slice(800, -800)
    assert np.abs(found - expected)[inner].max() < 0.02


def test_a_tone_that_the_new_rate_does_not_hold_is_silence() -> None:
    tone = np.sin(2 * np.pi * 11_000 * np.arange(44_100) / 44_100)
    assert np.abs(resampled(tone, 44_100, 16_000))[800:-800].max() < 0.02


@pytest.mark.parametrize("width", [2, 4])
def test_python_alone_reads_wav(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(width)
        file.setframerate(8_000)
        high = 2 ** (8 * width - 2)
        file.writeframes(np.array([[high, 0], [-high, high]], f"<i{width}").tobytes())
    samples = read_audio(str(path), "", 8_000)
    assert samples.tolist() == [0.25, 0.0]


@pytest.mark.parametrize("rate", [0, 2**32 - 1])
def test_an_invalid_sampling_rate_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int
) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    path = tmp_path / "a.wav"
    record(path, 0.1, 8_000)
    header = bytearray(path.read_bytes())
    header[24:28] = rate.to_bytes(4, "little")
    path.write_bytes(header)
    with pytest.raises(MediaError, match=f"its header says {rate} samples per second"):
        read_audio(str(path), "/data/a.wav", 16_000)


def test_a_format_that_needs_soundfile_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    (tmp_path / "a.mp3").write_bytes(b"ID3\x03")
    with pytest.raises(MediaError) as refused:
        read_audio(str(tmp_path / "a.mp3"), "s3://sounds/a.mp3", 16_000)
    assert str(refused.value).startswith("the recording 's3://sounds/a.mp3' cannot be ")
    assert str(refused.value).endswith(
        "convert it to WAV; pip install soundfile for FLAC, OGG and MP3"
    )
