"""``inspect``: what a file is, how it was made and how large it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .loading import POCKET

if TYPE_CHECKING:
    from ..evaluation.explain import Explanation
    from ..files.prior_comparison import PriorComparison


def inspect(
    files: Annotated[
        list[Path], typer.Argument(help="Safetensors files: priors, identities, checkpoints, LoRAs, models.")
    ],
    explain: Annotated[
        bool, typer.Option("--explain", help="Show which layers, noise levels and blocks carry the identity.")
    ] = False,
    prior: options.PriorChoice = "",
    model: options.Model = POCKET,
    picture: Annotated[str, typer.Option(help="With --explain: write a chart to this PNG file.")] = "",
    device: options.Device = "",
    dtype: options.Dtype = "float32",
    pipeline_config: options.PipelineConfig = "",
    json: options.Json = False,
) -> None:
    """Show what each file is, how it was made and its size; of two priors also how they differ."""
    from ..files.inspection import PRIOR_KIND, describe_file
    from .loading import require_output
    from .terminal import answer

    if picture:
        require_output(Path(picture), ".png", *files)
    found = [describe_file(path) for path in files]
    texts, fields = [item.text() for item in found], [item.fields() for item in found]
    if explain:
        explained = [_explain(path, prior, model, device, dtype, pipeline_config) for path in files]
        texts = [f"{text}\n\n{one.text()}" for text, one in zip(texts, explained, strict=True)]
        fields = [{**own, "explanation": one.fields()} for own, one in zip(fields, explained, strict=True)]
        if picture:
            _draw(explained[0], Path(picture))
    compared = _compared(files) if [item.kind for item in found] == [PRIOR_KIND] * 2 else None
    if compared is not None:
        texts.append(compared.text())
    fields_of_both = {"comparison": compared.fields()} if compared else {}
    answer({"files": fields} | fields_of_both, "\n\n".join(texts), json)


def _compared(files: list[Path]) -> PriorComparison:
    from ..files.prior import load_prior
    from ..files.prior_comparison import compare_priors

    first, second = map(load_prior, files)
    return compare_priors(first, second)


def _explain(path: Path, prior: str, model: str, device: str, dtype: str, pipeline_config: str) -> Explanation:
    from ..evaluation.explain import explain_identity
    from ..files.identity import load_identity
    from .loading import load_base_model, prior_of

    identity = load_identity(path)
    return explain_identity(
        load_base_model(model, device, dtype, pipeline_config), identity, prior_of(identity, prior, model)
    )


def _draw(explanation: Explanation, path: Path) -> None:
    from ..evaluation.explain import explanation_png
    from ..files.atomic import atomic_write

    atomic_write(path, [explanation_png(explanation)])
