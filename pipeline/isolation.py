"""Decoding in a process of its own, for chunks that have killed decoders: what kills it again, alone, is poison.

Run as `python -m pipeline.isolation SIZE MODE MAX_PIXELS` it answers frames on stdin with frames on stdout.
A frame is a 4-byte length and a 4-byte tag, then the payload.
"""

import struct
import subprocess
import sys
from typing import IO

import numpy as np
from numpy.typing import NDArray

from pipeline.job import Job
from ramcore.errors import ImageError

_HEADER = struct.Struct("<I4s")
_SIDES = struct.Struct("<II")
_DEATHS_OF_POISON = 2


class IsolatedDecoder:
    """Decodes images one by one in a child process; `attempts` tells how often the last one was tried."""

    def __init__(self, job: Job) -> None:
        self._size = job.image_size
        config = job.config.decode
        self._command = [sys.executable, "-m", __name__, str(self._size), config.mode, str(config.max_pixels)]
        self._child: subprocess.Popen[bytes] | None = None
        self.attempts = 1

    def __enter__(self) -> "IsolatedDecoder":
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    def decode(self, data: bytes) -> tuple[NDArray[np.uint8], int, int]:
        """Pixels uint8 [size, size, 3], width and height.

        Raises ImageError; its kind is "poison" if the image killed two fresh processes that had only it to do.
        """
        self.attempts = 1
        answer = self._exchange(data)
        while answer is None and self.attempts <= _DEATHS_OF_POISON:
            self._end()
            self.attempts += 1
            answer = self._exchange(data)
        self.attempts = min(self.attempts, 1 + _DEATHS_OF_POISON)
        if answer is None:
            self._end()
            raise ImageError("poison", f"killed {_DEATHS_OF_POISON} fresh decoding processes that worked on it alone")
        return self._unpack(*answer)

    def _unpack(self, tag: bytes, payload: bytes) -> tuple[NDArray[np.uint8], int, int]:
        if tag == b"fail":
            kind, detail = payload.decode().split("\n", 1)
            raise ImageError(kind, detail)
        width, height = _SIDES.unpack_from(payload)
        pixels = np.frombuffer(payload, np.uint8, offset=_SIDES.size)
        return pixels.reshape(self._size, self._size, 3), width, height

    def _exchange(self, data: bytes) -> tuple[bytes, bytes] | None:
        """The child's answer; None if it died over it."""
        if self._child is None:
            self._child = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self._child.stdin is None or self._child.stdout is None:
            raise OSError("the decoding process has no pipes")
        try:
            _write_frame(self._child.stdin, b"data", data)
            return _read_frame(self._child.stdout)
        except (BrokenPipeError, EOFError):
            return None

    def _end(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None


def _write_frame(stream: IO[bytes], tag: bytes, payload: bytes) -> None:
    stream.write(_HEADER.pack(len(payload), tag) + payload)
    stream.flush()


def _read_frame(stream: IO[bytes]) -> tuple[bytes, bytes]:
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise EOFError
    length, tag = _HEADER.unpack(header)
    payload = stream.read(length)
    if len(payload) < length:
        raise EOFError
    return tag, payload


def main() -> None:
    """Answer frames until stdin ends."""
    from ramcore.images import decode

    size, mode, max_pixels = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    if mode != "exact":
        import torch

        torch.set_num_threads(1)  # as in other decoders
    while True:
        try:
            _, data = _read_frame(sys.stdin.buffer)
        except EOFError:
            return
        try:
            decoded = decode(data, size, mode, max_pixels)
        except ImageError as fault:
            _write_frame(sys.stdout.buffer, b"fail", f"{fault.kind}\n{fault.detail}".encode())
        else:
            sides = _SIDES.pack(decoded.width, decoded.height)
            _write_frame(sys.stdout.buffer, b"good", sides + decoded.pixels.tobytes())


if __name__ == "__main__":
    main()
