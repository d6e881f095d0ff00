"""What varies from photo to photo: pose, expression, light, background; and the words for it.

A scene is everything a prompt may ask for and an identity must not depend on. Captions are made from the same numbers
that the renderer gets, so a picture can be compared with its prompt.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .factors import Domain

BACKGROUNDS: dict[str, tuple[float, float, float]] = {
    "red": (0.80, 0.20, 0.20),
    "orange": (0.93, 0.58, 0.22),
    "yellow": (0.93, 0.85, 0.36),
    "green": (0.27, 0.62, 0.32),
    "blue": (0.22, 0.40, 0.78),
    "purple": (0.52, 0.30, 0.66),
    "pink": (0.94, 0.65, 0.75),
    "white": (0.94, 0.94, 0.94),
    "grey": (0.52, 0.53, 0.55),
    "black": (0.10, 0.10, 0.12),
}
# Centre of each word's range. Yaw and pitch in units of their largest angle; light as a direction (x right, y up).
TURNS = {"left": -0.75, "front": 0.0, "right": 0.75}
TILTS = {"level": 0.0, "up": 0.8, "down": -0.8}
LIGHTS = {"left": (-0.8, 0.2), "right": (0.8, 0.2), "above": (0.0, 0.9), "front": (0.0, 0.15)}
# Expressions as (smile, mouth opening): continuous, so that a half-smile is half wrong.
EXPRESSIONS = {"neutral": (0.0, 0.0), "smiling": (1.0, 0.25), "sad": (-1.0, 0.0), "surprised": (0.1, 1.0)}

_OTHER_SIDE = {"left": "right", "right": "left"}
_TURN_WORDS: dict[Domain, dict[str, str]] = {
    "avatars": {"left": "looking left", "front": "facing front", "right": "looking right"},
    "products": {"left": "turned left", "front": "seen from the front", "right": "turned right"},
}
_TILT_WORDS: dict[Domain, dict[str, str]] = {
    "avatars": {"level": "head level", "up": "head up", "down": "head down"},
    "products": {"level": "at eye level", "up": "from below", "down": "from above"},
}


@dataclass(frozen=True)
class Scene:
    """The circumstances of one photo.

    Attributes:
        turn, tilt, light, background: Words out of the tables of this module.
        expression: A word of EXPRESSIONS; products have none and ignore it.
        jitter: Seed of the small changes that no caption names (roll, zoom, offset, shade).
    """

    turn: str = "front"
    tilt: str = "level"
    light: str = "front"
    background: str = "grey"
    expression: str = "neutral"
    jitter: int = 0

    def mirrored(self) -> Scene:
        """What the mirror image of a photo shows: left and right are swapped, in the pose and in the light."""
        return replace(self, turn=_OTHER_SIDE.get(self.turn, self.turn), light=_OTHER_SIDE.get(self.light, self.light))

    def words(self, domain: Domain) -> str:
        """The part of a caption that describes this scene."""
        parts = [_TURN_WORDS[domain][self.turn], _TILT_WORDS[domain][self.tilt]]
        if domain == "avatars":
            parts.insert(0, self.expression)
        parts += [f"light from {self.light}", f"{self.background} background"]
        return ", ".join(parts)

    def caption(self, domain: Domain, class_word: str, trigger: str = "") -> str:
        """The whole caption: "photo of a ohwx person, smiling, looking left, …"."""
        return f"photo of a {f'{trigger} ' if trigger else ''}{class_word}, {self.words(domain)}"


def draw_scene(domain: Domain, generator: torch.Generator) -> Scene:
    """Draw a scene: every word equally likely, poses in the middle twice as likely as the rest."""

    def pick(words: list[str]) -> str:
        return words[int(torch.randint(len(words), (), generator=generator))]

    return Scene(
        turn=pick(["left", "front", "right"]),
        tilt=pick(["level", "level", "up", "down"]) if domain == "avatars" else pick(["level", "down", "down"]),
        light=pick(list(LIGHTS)),
        background=pick(list(BACKGROUNDS)),
        expression=pick(list(EXPRESSIONS)) if domain == "avatars" else "neutral",
        jitter=int(torch.randint(2**31 - 1, (), generator=generator)),
    )


def draw_scenes(domain: Domain, count: int, seed: int) -> list[Scene]:
    """Draw ``count`` scenes from one seed."""
    generator = torch.Generator().manual_seed(seed)
    return [draw_scene(domain, generator) for _ in range(count)]


SCENE_NAMES: tuple[str, ...] = ("yaw", "pitch", "light_x", "light_y", "red", "green", "blue", "smile", "open")


def scene_truth(scene: Scene, domain: Domain) -> Tensor:
    """The numbers that a prompt asks for, shape (9,), in the order of SCENE_NAMES; products have 7."""
    light = LIGHTS[scene.light]
    values = [TURNS[scene.turn], TILTS[scene.tilt], *light, *BACKGROUNDS[scene.background]]
    if domain == "avatars":
        values += EXPRESSIONS[scene.expression]
    return torch.tensor(values)


# Which of the numbers belong to which word of the prompt; each word counts the same in the prompt error.
SCENE_GROUPS: dict[str, slice] = {
    "pose": slice(0, 2),
    "light": slice(2, 4),
    "background": slice(4, 7),
    "expression": slice(7, 9),
}


def jittered(scenes: list[Scene], domain: Domain) -> dict[str, Any]:
    """What the renderer renders: the words' centres plus the small changes of each photo.

    Returns:
        Tensors of shape (B,) "yaw", "pitch", "roll" (radians), "zoom" (factor), "shift_x", "shift_y" (image half
        widths), "smile", "open"; shape (B, 3) "light" (unit vector), "background" (RGB).
    """
    rows = torch.stack([scene_truth(scene, domain) for scene in scenes])
    noise = torch.stack([torch.rand(12, generator=torch.Generator().manual_seed(s.jitter)) * 2 - 1 for s in scenes])
    yaw_max, pitch_max = (0.62, 0.34) if domain == "avatars" else (0.85, 0.60)
    pitch_offset = 0.0 if domain == "avatars" else -0.12
    light = torch.cat([rows[:, 2:4] + 0.12 * noise[:, 2:4], torch.full((len(scenes), 1), 0.65)], dim=1)
    return {
        "yaw": (rows[:, 0] + 0.22 * noise[:, 0]) * yaw_max,
        "pitch": (rows[:, 1] + 0.18 * noise[:, 1]) * pitch_max + pitch_offset,
        "roll": 0.06 * noise[:, 4],
        "zoom": 1 + 0.06 * noise[:, 5],
        "shift_x": 0.05 * noise[:, 6],
        "shift_y": 0.04 * noise[:, 7],
        "light": light / light.norm(dim=1, keepdim=True),
        "background": (rows[:, 4:7] + 0.04 * noise[:, 8:11]).clamp(0, 1),
        "smile": rows[:, 7] + 0.12 * noise[:, 11] if domain == "avatars" else torch.zeros(len(scenes)),
        "open": rows[:, 8] * (1 + 0.15 * noise[:, 1]) if domain == "avatars" else torch.zeros(len(scenes)),
    }
