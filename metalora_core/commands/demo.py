"""``demo``: see it work in about a minute, without any download."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from . import options

if TYPE_CHECKING:
    from ..evaluation.subjects.world import LearnedSubject


def demo(
    photos: Annotated[str, typer.Option(help="Folder of your own photos; empty for test subjects.")] = "",
    class_word: Annotated[str, typer.Option(help='What your photos show, such as "person" or "mug".')] = "",
    domain: Annotated[
        Literal["both", "avatars", "products"], typer.Option(help="Domain of the test subject, if you give no photos.")
    ] = "both",
    subject: Annotated[int, typer.Option(help="Number of the test subject.", min=0)] = 0,
    photo_count: Annotated[int, typer.Option(help="Photos of the test subject.", min=1, max=4)] = 1,
    steps: Annotated[int, typer.Option(help="Training steps of each method.", min=1)] = 100,
    prompts: Annotated[int, typer.Option(help="Prompts to score; four are shown.", min=1)] = 12,
    output: Annotated[
        str,
        typer.Option(help="Picture to write; empty for output/demo.png, or output/demo_MUG.png with your own photos."),
    ] = "",
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Learn a subject with Meta-LoRA and with plain LoRA; write a picture and print a table."""
    from ..demo.figure import demo_figure
    from ..demo.report import demo_fields, demo_table
    from ..demo.run import compare
    from ..errors import InvalidOptions
    from ..photos.pictures import save_picture
    from .loading import POCKET, load_base_model, load_prior_for, require_output
    from .terminal import answer, progress_bars

    if photos and not class_word:
        raise InvalidOptions("--photos needs --class-word: what the photos show, such as mug, person or bottle.")
    if photos:
        load_prior_for("", POCKET, class_word)
    picture = Path(output or f"output/demo{f'_{class_word}' if photos else ''}.png")
    require_output(picture, ".png")
    host = load_base_model(POCKET, "cpu", "float32")
    runs = []
    for one in _subjects(photos, class_word, domain, subject, photo_count, prompts):
        with progress_bars(quiet=json) as bars:
            prior = load_prior_for("", POCKET, one.photos.class_word)
            runs.append((one, compare(host, prior, one, steps=steps, seed=seed, flip=not photos, on_progress=bars)))
    save_picture(demo_figure(runs, steps), picture)
    fields = {"picture": str(picture), "rows": demo_fields(runs)}
    answer(fields, f"\n{demo_table(runs)}\n\nThe picture: {picture}", json)


def _subjects(
    photos: str, class_word: str, domain: str, index: int, photo_count: int, prompts: int
) -> list[LearnedSubject]:
    from ..evaluation.subjects.pocket import demo_subject, own_subject
    from ..pocket import load_readers
    from ..pocket.world.factors import DOMAINS, Domain
    from .terminal import remark

    readers = load_readers()
    if photos:
        return [own_subject(Path(photos), class_word, prompts, readers, remark)]
    chosen: list[Domain] = [one for one in DOMAINS if domain in ("both", one)]
    return [demo_subject(one, index, photo_count, prompts, readers) for one in chosen]
