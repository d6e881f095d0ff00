"""``python -m metalora_core pocket …``: look at the small world and make its files again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..pocket.world.factors import DOMAINS, Domain

pocket_app = typer.Typer(
    help="The small world that ships with the pack: render it, train its models.", no_args_is_help=True
)
train_app = typer.Typer(help="Train one of the shipped files, in this order.", no_args_is_help=True)
pocket_app.add_typer(train_app, name="train")

Folder = Annotated[Path, typer.Option(help="Folder for rendered photos and latents.")]
Steps = Annotated[int, typer.Option(help="Training steps; 0 for the shipped number.", min=0)]
Fast = Annotated[bool, typer.Option("--fast", help="Compile passes but for scorers; bfloat16 if the CPU has it.")]
DomainName = Annotated[str, typer.Option(help="avatars or products; empty for both.")]
_FOLDER = Path("output/pocket")


def _domains(name: str) -> tuple[Domain, ...]:
    chosen: tuple[Domain, ...] = tuple(domain for domain in DOMAINS if not name or domain == name)
    if not chosen:
        raise typer.BadParameter(f"Unknown domain {name!r}; expected one of {', '.join(DOMAINS)}.")
    return chosen


@pocket_app.command()
def sheet(
    output: Annotated[Path, typer.Argument(help="PNG file to write.")],
    domain: DomainName = "",
    subjects: Annotated[int, typer.Option(min=1, max=32)] = 6,
    photos: Annotated[int, typer.Option(min=1, max=32)] = 8,
    first: Annotated[int, typer.Option(help="Number of the first validation subject.", min=0)] = 0,
) -> None:
    """Render validation subjects in different scenes, one per row."""
    from ..photos.pictures import grid, save_picture, to_pil
    from ..pocket.world.factors import draw_subjects
    from ..pocket.world.render import render
    from ..pocket.world.scenes import draw_scenes

    rows = []
    for one in _domains(domain):
        who = [s for s in draw_subjects(one, "validation", subjects, first) for _ in range(photos)]
        drawn = [to_pil(photo) for photo in render(who, draw_scenes(one, len(who), 5))]
        rows += [drawn[start : start + photos] for start in range(0, len(drawn), photos)]
    save_picture(grid(rows), output)
    typer.echo(f"{output}: {len(rows)} subjects, {photos} photos of each")


@train_app.command()
def photos(folder: Folder = _FOLDER, domain: DomainName = "") -> None:
    """Render the training photos (about 15 minutes)."""
    from ..pocket.making.dataset import PhotoPlan, rendered_photos

    for one in _domains(domain):
        typer.echo(f"{one}: {len(rendered_photos(PhotoPlan(one), folder))} photos in {folder}")


@train_app.command()
def autoencoder(folder: Folder = _FOLDER, steps: Steps = 0) -> None:
    """Make the autoencoder: encoder from patch components, decoder by training."""
    from dataclasses import replace

    from ..pocket.making.train_autoencoder import AutoencoderOptions, save_autoencoder, start_autoencoder, train_decoder

    options = AutoencoderOptions()
    options = replace(options, steps=steps or options.steps)
    model = start_autoencoder(folder, options)
    train_decoder(model, folder, options)
    save_autoencoder(model, options)


@train_app.command()
def base(
    folder: Folder = _FOLDER,
    steps: Steps = 0,
    rate: Annotated[float, typer.Option(help="Learning rate; 0 for the shipped one.", min=0)] = 0.0,
    go_on: Annotated[bool, typer.Option("--continue", help="Start from the shipped weights.")] = False,
    fast: Fast = False,
) -> None:
    """Train the text encoder and the tiny Flux."""
    from dataclasses import replace

    from ..pocket.making.base_photos import training_photos
    from ..pocket.making.train_base import BaseOptions, load_base, save_base, train_base

    options = BaseOptions()
    rate = rate or options.learning_rate
    options = replace(options, steps=steps or options.steps, learning_rate=rate, fast=fast)
    start, earlier = load_base() if go_on else (None, [])
    trained = train_base(training_photos(folder), options, start=start)
    save_base(trained, options, earlier)


@train_app.command()
def reader(folder: Folder = _FOLDER, domain: DomainName = "", steps: Steps = 0, fast: Fast = False) -> None:
    """Train the scorers."""
    from dataclasses import replace

    from ..pocket.making.train_readers import ReaderOptions, make_reader

    options = ReaderOptions()
    for one in _domains(domain):
        make_reader(one, folder, replace(options, steps=steps or options.steps, fast=fast))


@train_app.command()
def prior(
    folder: Folder = _FOLDER,
    domain: DomainName = "",
    steps: Steps = 0,
    go_on: Annotated[bool, typer.Option("--continue", help="Start from the shipped prior.")] = False,
    fast: Fast = False,
) -> None:
    """Meta-train the priors, with the same stage 1 as for large models."""
    from ..pocket.load import load_pocket_prior
    from ..pocket.making.train_prior import make_prior, shipped_stages

    for one in _domains(domain):
        earlier = load_pocket_prior(one) if go_on else None
        make_prior(one, folder, shipped_stages(one, steps), earlier=earlier, fast=fast)
