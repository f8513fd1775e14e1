"""Reads recordings as samples for a speech model."""

from __future__ import annotations

import wave
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsml_bento.error_text import describe
from lsml_bento.errors import MediaError

Samples = NDArray[np.float32]
"""One channel, values from -1 to 1."""

_HIGHEST_RATE = 768_000
_BLOCK_S = 60
_WIDTHS = {2: ("<i2", 2**15), 4: ("<i4", 2**31)}
"""Bytes per sample -> data type, and the value that stands for 1.0."""


def read_audio(path: str, url: str, rate: int) -> Samples:
    """The samples of a file, with its channels mixed into one.

    With the package soundfile it reads WAV, FLAC, OGG and MP3; without it only WAV.

    Args:
        path: the file.
        url: from the task, for the error message.
        rate: wanted samples per second.

    Raises:
        MediaError: if it cannot be decoded.
    """
    soundfile = _soundfile()
    try:
        if soundfile is None:
            samples, found = _read_wave(path)
        else:
            samples, found = soundfile.read(path, dtype="float32", always_2d=True)
        if not 0 < found <= _HIGHEST_RATE:
            raise ValueError(f"its header says {found} samples per second")
        return resampled(samples.mean(axis=1), found, rate)
    except (OSError, EOFError, RuntimeError, ValueError, wave.Error) as error:
        more = "" if soundfile else "; pip install soundfile for FLAC, OGG and MP3"
        raise MediaError(
            f"the recording {url[:200]!r} cannot be decoded: {describe(error)}; "
            f"convert it to WAV{more}"
        ) from error


def _soundfile() -> Any:
    try:
        import soundfile  # noqa: PLC0415 - optional
    except (ImportError, OSError):  # OSError: the package without its library
        return None
    return soundfile


def _read_wave(path: str) -> tuple[Samples, int]:
    with wave.open(path) as file:
        width, channels = file.getsampwidth(), file.getnchannels()
        if width not in _WIDTHS:
            raise ValueError(f"its samples have {8 * width} bits, not 16 or 32")
        kind, one = _WIDTHS[width]
        samples = np.frombuffer(file.readframes(file.getnframes()), kind)
        return (
            (samples / one).astype(np.float32).reshape(-1, channels),
            file.getframerate(),
        )


def resampled(samples: NDArray[Any], have: int, want: int) -> Samples:
    """Resample, without frequencies that the new rate cannot represent.

    It truncates or pads the spectrum of each block. Blocks overlap by one second, so
    that their edges are not audible.

    Args:
        samples: one channel.
        have: its samples per second.
        want: samples per second of the result.
    """
    if have == want or not len(samples):
        return np.asarray(samples, np.float32)
    blocks = []
    for start in range(0, len(samples), _BLOCK_S * have):
        first = max(0, start - have)
        part = samples[first : start + (_BLOCK_S + 1) * have]
        part = np.pad(part, (0, -len(part) % have))  # whole seconds keep their length
        count = len(part) // have * want
        whole = np.fft.irfft(np.fft.rfft(part), n=count) * (want / have)
        skipped = (start - first) // have * want
        blocks.append(whole[skipped : skipped + _BLOCK_S * want])
    length = round(len(samples) * want / have)
    return np.concatenate(blocks)[:length].astype(np.float32)
