"""Drawn scenes with exact labels, which the demo model is trained and measured on."""

from ramcore.scenes.drawing import SCENE_TAGS, TAG_NAMES, Scene, SceneTag, draw_scene

__all__ = ["SCENE_TAGS", "TAG_NAMES", "Scene", "SceneTag", "draw_scene"]
