"""Decoding in a process of its own."""

import io
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config import Config
from pipeline.isolation import IsolatedDecoder
from pipeline.job import Job
from pipeline.stores.local_store import LocalStore
from ramcore.errors import ImageError
from ramcore.images import decode


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(Config(), LocalStore(tmp_path), "session", "bundle", 64, "fp32", "hash")


def picture(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (100, 80), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.lengthy
def test_pixels_and_errors_are_those_of_the_normal_way(job: Job) -> None:
    """One process answers for good and bad images alike."""
    with IsolatedDecoder(job) as decoder:
        pixels, width, height = decoder.decode(picture((1, 2, 3)))
        with pytest.raises(ImageError) as caught:
            decoder.decode(b"<html>no image</html>")
        assert (width, height) == (100, 80)
        assert np.array_equal(pixels, decode(picture((1, 2, 3)), 64, "fast").pixels)
        assert caught.value.kind == "not_an_image"
        assert np.array_equal(decoder.decode(picture((9, 9, 9)))[0][0, 0], [9, 9, 9])


@pytest.mark.lengthy
def test_one_death_is_forgiven(job: Job) -> None:
    """An image whose process was killed once, by something else, is decoded by the next."""
    with IsolatedDecoder(job) as decoder:
        decoder.decode(picture((1, 1, 1)))
        child = decoder._child
        assert child is not None
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        pixels, _, _ = decoder.decode(picture((2, 2, 2)))
        assert (pixels == 2).all()
        assert decoder.attempts == 2


@pytest.mark.lengthy
def test_what_kills_two_fresh_processes_is_poison(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third death of the same image ends it, and the next image is decoded."""
    deadly = "import os, sys; sys.stdin.buffer.read(8); os.kill(os.getpid(), 9)"
    with IsolatedDecoder(job) as decoder:
        good = decoder._command
        decoder._command = [sys.executable, "-c", deadly]
        with pytest.raises(ImageError) as caught:
            decoder.decode(picture((1, 1, 1)))
        assert caught.value.kind == "poison"
        decoder._command = good
        assert (decoder.decode(picture((3, 3, 3)))[0] == 3).all()
