"""Choose the learning rates of plain LoRA and Meta-LoRA on validation subjects, with the same budget for both.

    python benchmarks/tune_learning_rates.py --steps 100 --photos 1 --subjects 8

The combined error is the geometric mean of identity and prompt error above the readers' floor, so that neither copying
the photo nor ignoring it wins. Test subjects are not looked at.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer

sys.path.append(str(Path(__file__).resolve().parent.parent))

from metalora_core.baselines import PlainLoRAOptions
from metalora_core.demo.run import DemoOptions, MethodResult, learn_meta, learn_plain, request_of
from metalora_core.demo.subjects import DemoSubject, pocket_subject
from metalora_core.pocket import load_pocket_host, load_pocket_prior, load_readers
from metalora_core.pocket.factors import DOMAINS
from metalora_core.terminal import table

RATES = (1e-3, 3e-3, 1e-2)


def with_rate(options: DemoOptions, rate: float) -> DemoOptions:
    meta = replace(options.meta, mid_learning_rate=rate, up_learning_rate=rate)
    return replace(options, meta=meta, plain=PlainLoRAOptions(learning_rate=rate))


def above_floor(result: MethodResult, subject: DemoSubject) -> tuple[float, float]:
    if subject.truth is None:
        raise SystemExit("A validation subject without a truth cannot be scored.")
    floor = subject.score(subject.truth)
    return max(result.identity_error - floor.identity, 1e-4), max(result.prompt_error - floor.prompt, 1e-4)


def main(
    steps: int = 100,
    photos: int = 1,
    subjects: int = 8,
    prompts: int = 8,
    domain: Annotated[str, typer.Option(help="avatars, products, or empty for both.")] = "",
) -> None:
    torch.set_num_threads(1)
    host, readers = load_pocket_host(), load_readers()
    for one in (name for name in DOMAINS if domain in ("", name)):
        prior = load_pocket_prior(one)
        chosen = [pocket_subject(one, i, photos, prompts, readers, "validation") for i in range(subjects)]
        rows = [("method", "rate", "identity", "prompt", "combined")]
        for method, learn in (("plain LoRA", learn_plain), ("Meta-LoRA", learn_meta)):
            for rate in RATES:
                options = with_rate(DemoOptions(steps=steps), rate)
                errors = torch.tensor(
                    [above_floor(learn(host, prior, s, options, request_of(s, options)), s) for s in chosen]
                )
                means = errors.mean(0).tolist()
                combined = float(errors.log().mean(1).exp().mean())
                rows.append((method, f"{rate:g}", f"{means[0]:.4f}", f"{means[1]:.4f}", f"{combined:.4f}"))
        print(f"\n{one}: {subjects} validation subjects, {photos} photo(s), {steps} steps, errors above the floor")
        print(table(rows), flush=True)


if __name__ == "__main__":
    typer.run(main)
