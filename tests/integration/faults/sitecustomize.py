"""Planted faults: on PYTHONPATH, this makes marked pictures kill the process that works on them, in every process.

A JPEG whose bytes hold KILL-DECODER kills whoever decodes it; a magenta picture kills the replica that scores it; a
cyan one makes the model raise. The code under test knows nothing of this.
"""

import importlib.machinery
import os
import signal
import sys


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


def _patch_images(module):
    decode = module.decode

    def deadly(data, *arguments, **options):
        if b"KILL-DECODER" in data:
            _die()
        return decode(data, *arguments, **options)

    module.decode = deadly


def _patch_tagger(module):
    begin = module.Tagger.begin

    def deadly(self, pixels):
        colours = [tuple(int(value) for value in image.reshape(-1, 3).mean(0).round()) for image in pixels]
        if any(red > 250 and green < 5 and blue > 250 for red, green, blue in colours):
            _die()
        if any(red < 5 and green > 250 and blue > 250 for red, green, blue in colours):
            raise RuntimeError("planted fault")
        return begin(self, pixels)

    module.Tagger.begin = deadly


_PATCHES = {"ramcore.images": _patch_images, "ramcore.tagger": _patch_tagger}


class _Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        patch = _PATCHES.get(name)
        spec = super().find_spec(name, path, target) if patch else None
        if spec is None:
            return None
        execute = spec.loader.exec_module

        def patched(module):
            execute(module)
            patch(module)

        spec.loader.exec_module = patched
        return spec


sys.meta_path.insert(0, _Finder)
