"""What a quick prior is worth on the small world: ``make quick-prior ARGS="--json FILE"``.

Per domain, two priors are made, one of 20 training subjects with five photos each, and one of 32 plain LoRA files of
other training subjects. Validation subjects are then learned from one photo with each of them, with the shipped prior,
without one, as a plain LoRA and, where there is a ComfyUI, by its Train LoRA. A share is the gain in hypervolume over
plain LoRA divided by the shipped prior's gain, both summed over the domains; intervals resample the subjects, the same
ones for all methods.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from metalora_core.commands.bench_run import usual_and_tuned_rates
from metalora_core.evaluation.core_lora import why_not_run
from metalora_core.evaluation.curves import Curve, Numbers, curves_of, interval, resample_weights
from metalora_core.evaluation.front import Path as FrontPath
from metalora_core.evaluation.methods.cohort import train_cohort
from metalora_core.evaluation.methods.registry import BASE, CORE, META_RANDOM, META_WARM, PLAIN, chain_of
from metalora_core.evaluation.plan import BenchPlan, Group, Unit
from metalora_core.evaluation.rows import Row
from metalora_core.evaluation.runner import Bench, pocket_bench, run_unit
from metalora_core.files.lora_files import layer_names, read_loras
from metalora_core.files.prior import Prior
from metalora_core.photos.pictures import from_uint8
from metalora_core.photos.training_set import TrainingSet
from metalora_core.pocket.load import load_autoencoder
from metalora_core.pocket.making.dataset import PhotoPlan, rendered_photos
from metalora_core.pocket.making.latents_cache import PhotoSubjects, encoded_photos
from metalora_core.pocket.world.factors import DOMAINS, Domain
from metalora_core.quick.making import QuickSources, lora_targets, quick_prior
from metalora_core.training.adaptation_options import AdaptationOptions
from metalora_core.training.meta_options import MetaTrainingOptions

SUBJECTS, PHOTOS, AT_ONCE = 20, 5, 8
STEPS = (10, 25, 50)
FROM_SUBJECTS, FROM_LORAS = "from_subjects", "from_loras"
_LEAST = 0.01  # of a hypervolume in a ratio


@dataclass(frozen=True)
class Sizes:
    """How much is run; the usual values are the full form."""

    subjects: int = 32
    steps: int = 2000
    batch: int = 16
    files: int = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    for name, text in (
        ("subjects", "validation subjects a domain"),
        ("steps", "training steps of the prior from subjects"),
        ("batch", "subjects in each of them"),
        ("files", "LoRA files that a prior is made of"),
    ):
        parser.add_argument(f"--{name}", type=int, default=getattr(Sizes(), name), help=text)
    parser.add_argument("--domain", choices=DOMAINS, help="only this one; both are the full form")
    given = vars(parser.parse_args())
    path, only, sizes = given.pop("json"), given.pop("domain"), Sizes(**given)
    bench, rows, seconds = pocket_bench(), list[Row](), dict[str, float]()
    for domain in (only,) if only else DOMAINS:
        rows += in_domain(bench, domain, sizes, seconds)
        print(json.dumps(figures(rows, seconds, sizes), indent=1), flush=True)
    if path is not None:
        path.write_text(json.dumps(figures(rows, seconds, sizes), indent=1) + "\n", encoding="utf-8")


def in_domain(bench: Bench, domain: Domain, sizes: Sizes, seconds: dict[str, float]) -> list[Row]:
    """Make both priors, learn the validation subjects with every method, and add up the seconds of each prior."""
    plan = PhotoPlan(domain, "train", SUBJECTS + sizes.files, PHOTOS)
    options = MetaTrainingOptions(steps=sizes.steps, subjects_per_batch=sizes.batch)
    with tempfile.TemporaryDirectory() as folder:
        subjects = PhotoSubjects(plan, encoded_photos(plan, Path(folder), load_autoencoder()), SUBJECTS)
        write_loras(bench, plan, Path(folder), sizes.files)
        made: dict[str, Prior] = {}
        for name in (FROM_SUBJECTS, FROM_LORAS):
            began = time.monotonic()
            targets = lora_targets(bench.host, options)
            names = layer_names(bench.host.targets())
            found = read_loras(Path(folder) / "loras", names, targets) if name == FROM_LORAS else None
            sources = QuickSources(domain, None if found else subjects, found)
            made[name] = quick_prior(bench.host, sources, options, on_forecast=lambda _: None, save=lambda prior: prior)
            seconds[f"{name}_{domain}"] = round(time.monotonic() - began, 1)
            print(f"{domain}: {name} in {seconds[f'{name}_{domain}']} s", file=sys.stderr, flush=True)
    return [row for method, own in ways(bench, made, domain) for row in learned(own, domain, *method, sizes)]


def write_loras(bench: Bench, plan: PhotoPlan, folder: Path, count: int) -> None:
    """Train plain LoRAs of the subjects behind the first 20, side by side, and write them with diffusers' keys."""
    start = chain_of(PLAIN, bench.host, bench.priors[plan.domain], 0)
    photos = from_uint8(rendered_photos(plan, folder)[SUBJECTS * PHOTOS :])
    captions = plan.captions()[SUBJECTS * PHOTOS :]
    sets = [
        TrainingSet(tuple(photos[i : i + PHOTOS]), tuple(captions[i : i + PHOTOS]), "", "")
        for i in range(0, count * PHOTOS, PHOTOS)
    ]
    rate = usual_and_tuned_rates()[f"{PLAIN}@4"]
    options = AdaptationOptions(steps=STEPS[-1], mid_learning_rate=rate, up_learning_rate=rate, final_rate=1.0)
    (folder / "loras").mkdir()
    for first in range(0, count, AT_ONCE):
        some = sets[first : first + AT_ONCE]
        flats = train_cohort(bench.host, start, some, options, [options.steps])[0].flats
        for number, flat in enumerate(flats, start=first):
            mids, ups = start.layout.unpack(flat)
            tensors = {f"transformer.{name}.lora_A.weight": mid.contiguous() for name, mid in mids.items()}
            tensors |= {f"transformer.{name}.lora_B.weight": up.contiguous() for name, up in ups.items()}
            save_file(tensors, folder / "loras" / f"{number:03}.safetensors")


def ways(bench: Bench, made: Mapping[str, Prior], domain: Domain) -> list[tuple[tuple[str, str], Bench]]:
    """Name in the rows and method, each with the priors that it uses."""
    plain = [((name, name), bench) for name in (BASE, PLAIN, META_RANDOM, META_WARM)]
    if not why_not_run():
        plain.append(((CORE, CORE), bench))
    return plain + [((name, META_WARM), replace(bench, priors={domain: prior})) for name, prior in made.items()]


def learned(bench: Bench, domain: Domain, name: str, method: str, sizes: Sizes) -> list[Row]:
    """Learn the validation subjects from one photo."""
    plan = BenchPlan(
        (Group((method,), (1,), STEPS),),
        subjects=sizes.subjects, split="validation", domains=(domain,), prompts=4, rates=usual_and_tuned_rates(),
    )  # fmt: skip
    steps, rows = (0,) if method == BASE else STEPS, list[Row]()
    for first in range(0, sizes.subjects, AT_ONCE):
        unit = Unit(method, domain, 1, "clean", steps, tuple(range(first, min(first + AT_ONCE, sizes.subjects))))
        rows += [replace(row, method=name) for row in run_unit(bench, plan, unit)]
    print(f"{domain}: {name} learned", file=sys.stderr, flush=True)
    return rows


def figures(rows: Sequence[Row], seconds: Mapping[str, float], sizes: Sizes) -> dict[str, Any]:
    """Every figure as [value, low, high], the seconds of each prior, and what was run."""
    curves = curves_of(rows)
    domains = sorted({domain for _, domain, _ in curves})
    areas: dict[str, dict[str, Numbers]] = {}
    for (method, domain, _), curve in curves.items():
        if method != BASE:
            areas.setdefault(method, {})[domain] = _area(curve, curves[BASE, domain, 1], domains.index(domain))

    def ratio(first: str, second: str) -> list[float]:
        pairs = [areas[first][d].clip(min=_LEAST) / areas[second][d].clip(min=_LEAST) for d in domains]
        return _rounded(np.exp(np.mean(np.log(pairs), axis=0)))

    def share(name: str) -> list[float]:
        gains = {m: sum(areas[m][d] - areas[PLAIN][d] for d in domains) for m in (name, META_WARM)}
        return _rounded(np.asarray(gains[name] / np.where(np.abs(gains[META_WARM]) < 1e-9, np.nan, gains[META_WARM])))

    found: dict[str, Any] = {
        "no_prior_vs_plain": ratio(META_RANDOM, PLAIN),
        "from_subjects_share": share(FROM_SUBJECTS),
        "from_loras_share": share(FROM_LORAS),
        "hypervolume": {m: {d: _rounded(own[d]) for d in domains} for m, own in areas.items()},
        "seconds": dict(seconds),
        "sizes": vars(sizes),
    }
    if CORE in areas:
        found["no_prior_vs_core"] = ratio(META_RANDOM, CORE)
    return found


def _area(curve: Curve, base: Curve, seed: int) -> Numbers:
    return FrontPath.of(curve, base, resample_weights(len(curve.subjects), seed)).hypervolume


def _rounded(values: Numbers) -> list[float]:
    return [round(value, 4) for value in interval(values)]


if __name__ == "__main__":
    main()
