"""The demo pictures: unseen drawn scenes with their labels, and broken files as every collection has them.

    python -m ramcore.scenes.demo_pictures OUT

writes OUT/pictures/scene_00.jpg … and OUT/labels.json. The photographs beside them are not made here
(see NOTICE.md in that folder).
"""

import io
import json
import sys
from collections import Counter
from pathlib import Path

from PIL import Image

from ramcore.scenes.drawing import TAG_NAMES, Scene, draw_scene
from ramcore.scenes.stream import scene_seeds

PICTURE_SIZE = 400
NUM_PICTURES = 40
_CANDIDATES = 400
_QUALITY = 88

HTML = """<!DOCTYPE html>
<html><head><title>404 Not Found</title></head><body><h1>Not Found</h1></body></html>
"""
TEXT = "This is a note and not a picture.\n"


def write_demo_pictures(out: Path) -> dict[str, tuple[str, ...]]:
    """Write pictures/ and labels.json below `out`; returns the labels by file name."""
    folder = out / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    labels = {}
    for number, seed in enumerate(choose_seeds(NUM_PICTURES)):
        scene = draw_scene(seed, PICTURE_SIZE, clean=True)
        name = f"scene_{number:02d}.jpg"
        (folder / name).write_bytes(_jpeg(scene))
        labels[name] = scene.labels
    _write_broken(folder, draw_scene(scene_seeds("demo", 1)[0], PICTURE_SIZE, clean=True))
    document = json.dumps(labels, ensure_ascii=False, indent=1) + "\n"
    (out / "labels.json").write_text(document, encoding="utf-8")
    return labels


def choose_seeds(count: int) -> list[int]:
    """Seeds of demo scenes that together show every tag about equally often, seldom tags first."""
    candidates = {seed: draw_scene(seed, 64, clean=True).labels for seed in scene_seeds("demo", _CANDIDATES)}
    shown: Counter[str] = Counter()
    chosen: list[int] = []
    while len(chosen) < min(count, _CANDIDATES):
        best = max(candidates, key=lambda seed: sum(0.4 ** shown[tag] for tag in candidates[seed]))
        shown.update(candidates.pop(best))
        chosen.append(best)
    if len(shown) < len(TAG_NAMES) and count >= NUM_PICTURES:
        raise ValueError(f"no demo picture shows {sorted(set(TAG_NAMES) - set(shown))}: look at more candidates")
    return chosen


def _jpeg(scene: Scene) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(scene.image).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _write_broken(folder: Path, scene: Scene) -> None:
    jpeg = _jpeg(scene)
    (folder / "broken_truncated.jpg").write_bytes(jpeg[: len(jpeg) // 3])
    (folder / "broken_empty.jpg").write_bytes(b"")
    (folder / "broken_html.jpg").write_text(HTML, encoding="utf-8")
    (folder / "broken_text.png").write_text(TEXT, encoding="utf-8")
    (folder / "broken_header.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m ramcore.scenes.demo_pictures OUT")
    write_demo_pictures(Path(sys.argv[1]))
