"""``generate``: pictures of a learned subject."""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from torch import Tensor

    from ..files.identity import Identity
    from ..files.prior import Prior
    from ..inject import Coverage
    from ..model.host import Host
    from ..provenance.permission import WithoutRecord


def generate(
    prompts: Annotated[
        list[str],
        typer.Argument(
            help='Prompt, such as "photo of a ohwx mug, turned right, from above, light from front, red background".'
        ),
    ],
    identity: Annotated[str, typer.Option(help="Identity file; empty for the base model alone.")] = "",
    prior: options.PriorChoice = "",
    model: options.Model = "pocket",
    strength: Annotated[float, typer.Option(help="0 is the base model, 1 the identity as learned.")] = 1.0,
    output: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("output"),
    count: Annotated[int, typer.Option(help="Pictures per prompt.", min=1)] = 1,
    steps: Annotated[int, typer.Option(help="Sampling steps.", min=1)] = 28,
    guidance: Annotated[
        float | None,
        typer.Option(help="Classifier-free guidance; 1 is none. Default: 2 for the pocket model, 1 for others."),
    ] = None,
    negative: Annotated[str, typer.Option(help="Negative prompt; used only with guidance above 1.")] = "",
    seed: options.Seed = 0,
    size: options.Size = 0,
    pipeline_config: options.PipelineConfig = "",
    device: options.Device = "",
    dtype: options.Dtype = "float32",
    swap_blocks: options.SwapBlocks = False,
    fp8_blocks: options.Fp8Blocks = False,
    without_record: options.WithoutRecord = "require",
    credentials: Annotated[
        bool,
        typer.Option(
            "--credentials", help="Sign the pictures: a C2PA manifest says how they were made. Needs c2pa-python."
        ),
    ] = False,
    json: options.Json = False,
) -> None:
    """Generate pictures of a learned subject."""
    from dataclasses import replace

    from ..errors import InvalidOptions
    from ..model.generation import Request, generate_pictures
    from ..photos.pictures import save_pictures
    from .loading import POCKET, block_place, load_base_model, picture_size_px
    from .terminal import answer, counting_bar

    request = Request(
        prompts=tuple(prompt for prompt in prompts for _ in range(count)),
        size_px=size or 1,  # the model's usual size is known when it is loaded
        steps=steps,
        guidance=(2.0 if model == POCKET else 1.0) if guidance is None else guidance,
        negative=negative,
        seed=seed,
    )
    request.check()
    if not isfinite(strength):
        raise InvalidOptions(f"strength is {strength}; give a finite number, 1 for the identity as learned.")
    _check_folder(output, seed)
    learned = _permitted(identity, prior, model, without_record)
    drawn = learned if strength else None
    near = Path(identity or output / "any")
    sign = _signer(drawn, near) if credentials else Path
    blocks = block_place(swap_blocks=swap_blocks, fp8_blocks=fp8_blocks)
    host = load_base_model(model, device, dtype, pipeline_config, blocks=blocks)
    request = replace(request, size_px=picture_size_px(host, model, size))
    paths, marks = list[Path](), _marks(drawn)
    with _applied(host, learned, strength, request.prompts) as told, counting_bar("drawing", "picture", json) as bar:

        def save(first: int, pictures: Tensor) -> None:
            paths.extend(map(sign, save_pictures(pictures, output, request, first, marks)))
            bar(len(paths), len(request.prompts))

        with _signed_noted(near, paths, drawn) if credentials else nullcontext():
            generate_pictures(host, request, save)
    files = [str(path) for path in paths]
    fields = {"pictures": files, "prompts": list(request.prompts), "coverage": told.text if told else None}
    answer(fields, "\n".join(files), json)


def _marks(learned: tuple[Identity, Prior] | None) -> dict[str, str]:
    from ..provenance.credentials import made_with, named
    from ..provenance.xmp import PNG_FIELD, xmp_of

    return {PNG_FIELD: xmp_of(made_with([named(learned[0])] if learned else []))}


def _signer(learned: tuple[Identity, Prior] | None, near: Path) -> Callable[[Path], Path]:
    """What signs a picture file in place; asked for before the model is loaded, in case it cannot be had."""
    from datetime import datetime, timezone

    from ..files.atomic import atomic_write
    from ..provenance.certificate import certificate_of
    from ..provenance.credentials import named, signed
    from .permission import permissions_near
    from .terminal import remark

    certificate = certificate_of(permissions_near(near).installation, datetime.now(timezone.utc))
    remark(certificate.note)
    identities = [named(learned[0])] if learned else []

    def sign(path: Path) -> Path:
        atomic_write(path, [signed(path.read_bytes(), "PNG", path.name, identities, certificate, "Meta-LoRA")])
        return path

    return sign


@contextmanager
def _signed_noted(near: Path, paths: Sequence[Path], learned: tuple[Identity, Prior] | None) -> Generator[None]:
    """Note down the pictures that were signed inside, also if it stops half way."""
    from ..provenance.permission import PICTURES_SIGNED, SIGNED_WITH, identity_details
    from .permission import noted, permissions_near

    try:
        yield
    finally:
        if paths:
            known, first = permissions_near(near), str(paths[0].absolute())
            if learned:
                noted(known, SIGNED_WITH, **identity_details(learned[0], first))
            noted(known, PICTURES_SIGNED, file=first, pictures=len(paths))


def _check_folder(output: Path, seed: int) -> None:
    from ..errors import InvalidOptions
    from ..files.atomic import require_writable
    from ..photos.images import PHOTO_SUFFIXES

    if output.suffix.lower() in PHOTO_SUFFIXES:
        raise InvalidOptions(f"{output} is a file name; --output takes the folder for the pictures.")
    require_writable(output / f"{seed}_00.png")


def _permitted(identity: str, prior: str, model: str, rule: WithoutRecord) -> tuple[Identity, Prior] | None:
    """The identity and its prior, if it may be drawn; asked before the model is loaded, which may take minutes."""
    if not identity:
        return None
    from ..files.identity import load_identity
    from ..provenance.consent import Purpose
    from ..provenance.permission import IDENTITY_APPLIED
    from .loading import prior_of
    from .permission import ask_identity

    learned = load_identity(Path(identity))
    used = prior_of(learned, prior, model)
    note = ask_identity(Path(identity), learned, used, Purpose.GENERATION, rule)
    note(IDENTITY_APPLIED, Path(identity), learned)
    return learned, used


def _applied(
    host: Host, learned: tuple[Identity, Prior] | None, strength: float, prompts: Sequence[str]
) -> AbstractContextManager[Coverage | None]:
    if learned is None:
        return nullcontext()
    from ..applying import apply_identity
    from ..photos.captions import mentions, subject_words
    from .terminal import remark

    words = learned[0].metadata
    if strength and not all(mentions(prompt, words.trigger) for prompt in prompts):
        called = subject_words(words.trigger, words.class_word)
        remark(f'the subject is called "{called}", but not every prompt contains that.')
    return apply_identity(host, *learned, strength)
