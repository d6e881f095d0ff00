"""Words for what a subject looks like: "ginger bun", "round glasses", "tall", "red cross".

Only the base model's training captions use them, so that the model knows the words of its world, as a large model does
that was trained on described photos. A caption of the benchmark or of an adaptation never describes the subject.
"""

from __future__ import annotations

from torch import Tensor

from .factors import FACIAL_HAIR, GLASSES, HAIR_STYLES, MARKS, Subject, slices

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.78, 0.18, 0.18),
    "orange": (0.88, 0.52, 0.22),
    "yellow": (0.86, 0.80, 0.36),
    "green": (0.27, 0.62, 0.32),
    "cyan": (0.30, 0.72, 0.72),
    "blue": (0.22, 0.36, 0.78),
    "purple": (0.52, 0.30, 0.70),
    "pink": (0.88, 0.55, 0.72),
    "white": (0.92, 0.92, 0.92),
    "grey": (0.55, 0.55, 0.56),
    "black": (0.14, 0.13, 0.14),
    "brown": (0.40, 0.25, 0.15),
}
_SKINS = {"pale": (0.95, 0.80, 0.69), "tan": (0.78, 0.63, 0.54), "dark": (0.45, 0.30, 0.22)}
# A scalar below a third or above two thirds has a word; values in between are not mentioned.
_SCALES: dict[str, tuple[str, str]] = {
    "head_width": ("narrow head", "wide head"),
    "jaw_width": ("narrow jaw", "wide jaw"),
    "eye_spacing": ("close eyes", "apart eyes"),
    "eye_size": ("small eyes", "big eyes"),
    "brow_thickness": ("thin brows", "thick brows"),
    "nose_size": ("small nose", "big nose"),
    "mouth_width": ("small mouth", "big mouth"),
    "hair_volume": ("thin hair", "thick hair"),
    "height": ("short", "tall"),
    "width": ("narrow", "wide"),
    "belly": ("small belly", "big belly"),
    "neck": ("thin neck", "thick neck"),
    "foot": ("small foot", "big foot"),
    "band_position": ("low band", "high band"),
    "band_width": ("thin band", "thick band"),
    "gloss": ("matte", "glossy"),
}
_PARTS = ("skin", "eyes", "shirt", "body", "band", "hair", "moustache", "plain", "glasses", "no")
_PHRASES = (*COLOURS, *_SKINS, *HAIR_STYLES, *GLASSES[1:], *FACIAL_HAIR[1:], *MARKS[1:], *_PARTS)
_SCALE_PHRASES = tuple(phrase for pair in _SCALES.values() for phrase in pair)
LOOK_WORDS: tuple[str, ...] = tuple(
    dict.fromkeys(word for phrase in (*_PHRASES, *_SCALE_PHRASES) for word in phrase.split())
)


def _nearest(colour: Tensor, names: dict[str, tuple[float, float, float]]) -> str:
    distances = {name: float((colour - colour.new_tensor(value)).square().sum()) for name, value in names.items()}
    return min(distances, key=lambda name: distances[name])


def looks(subject: Subject) -> list[str]:
    """Phrases of one to three words, each true of the subject; the plain ones first."""
    where = slices(subject.domain)

    def colour(name: str) -> str:
        return _nearest(subject.vector[where[name]], COLOURS)

    def choice(name: str, words: tuple[str, ...]) -> str:
        return words[int(subject.vector[where[name]].argmax())]

    if subject.domain == "avatars":
        style = choice("hair_style", HAIR_STYLES)
        glasses, beard = choice("glasses", GLASSES), choice("facial_hair", FACIAL_HAIR)
        phrases = [
            "bald" if style == "bald" else f"{colour('hair')} {style} hair",
            f"{_nearest(subject.vector[where['skin']], _SKINS)} skin",
            f"{colour('shirt')} shirt",
            "no glasses" if glasses == "none" else f"{glasses} glasses",
            f"{colour('iris')} eyes",
        ]
        phrases += [beard] if beard != "none" else []
    else:
        mark = choice("mark_kind", MARKS)
        phrases = [
            f"{colour('body')} body",
            f"{colour('band')} band",
            "plain" if mark == "none" else f"{colour('mark')} {mark}",
        ]
    for name, (low, high) in _SCALES.items():
        if name in where:
            value = float(subject.vector[where[name]])
            phrases += [low] if value < 1 / 3 else [high] if value > 2 / 3 else []
    return phrases
