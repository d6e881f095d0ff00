"""What is tried on every family: one function a column of the table. Imported inside a ComfyUI process only."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from checks.support import folders, pack, prepare, random_factors
from families.building import Clip, Family, Vae, build, side_of
from families.reference import cosine, reference_gradients

CAPTIONS = ("photo of a ohwx dog", "photo of a very small ohwx dog in a park")
SAMPLER_STEPS = 2


@dataclass
class Case:
    """A family's model and what has been made with it so far."""

    family: Family
    model: Any
    clip: Any
    vae: Any
    learned: Any = None
    prior: Any = None
    sampled: dict[str, torch.Tensor] = field(default_factory=dict)

    @staticmethod
    def of(family: Family, model: Any = None) -> Case:
        made = build(family) if model is None else model
        return Case(family, made, Clip(family), Vae(family, made.model))

    @property
    def side(self) -> int:
        return side_of(self.family, self.model)

    @functools.cached_property
    def host(self) -> Any:
        kind = pack("nodes.bridge.host.comfy_host").ComfyHost
        return kind(self.model, self.clip, self.vae, resolution=self.side)

    @functools.cached_property
    def targets(self) -> Any:
        """Those that a prior for this model trains."""
        trial = pack("nodes.bridge.host.trial")
        with torch.inference_mode():
            names = set(trial.trainable_layers(self.host, CAPTIONS[0]))
        return [target for target in self.host.targets() if target.name in names]

    def drawn(self, rows: int) -> tuple[Any, ...]:
        """Latents, noise, noise levels and captions of different length."""
        generator = torch.Generator().manual_seed(7)
        size = self.side // self.host.downscale
        latents, noise = torch.randn(2, rows, self.host.latent_channels, size, size, generator=generator)
        levels = self.host.objective.timesteps_from_uniform(torch.linspace(0.3, 0.8, rows))
        with torch.inference_mode():
            captions = self.host.encode_prompts([CAPTIONS[row % 2] for row in range(rows)])
        return latents, noise, levels, captions


def agrees_with_sampler(case: Case) -> float:
    """Largest relative difference to what core's sampler takes for the picture, at three noise levels."""
    rules, base, host = case.model.get_model_object("model_sampling"), case.model.model, case.host
    latents, noise, levels, captions = case.drawn(3)
    form = pack("nodes.bridge.host.latents").LatentFormat(base)
    worst = 0.0
    with torch.inference_mode():
        for row in range(3):
            one = [tensor[row : row + 1] for tensor in (latents, noise, levels)]
            caption = {name: value[row : row + 1] for name, value in captions.items()}
            noisy = host.objective.make_noisy(*one)
            ours, _ = host.objective.picture_and_noise(noisy, host.predict(noisy, one[2], caption), one[2])
            given = host.captions.joined(caption, form.unfolded(noisy).shape[2:])
            mixed = rules.noise_scaling(one[2], one[1].clone(), one[0].clone())
            options = {"sigmas": one[2], "sample_sigmas": torch.cat([one[2], one[2] * 0])}
            theirs = form.folded(base.apply_model(form.unfolded(mixed), one[2], transformer_options=options, **given))
            worst = max(worst, float((ours - theirs).abs().max() / theirs.abs().max()))
    return worst


def gradient_cosine_min(case: Case) -> float:
    """Worst cosine of every trained tensor to float64, with blocks kept and recomputed."""
    latents, noise, levels, captions = case.drawn(2)
    noisy = case.host.objective.make_noisy(latents, noise, levels)
    wanted = case.host.objective.target(latents, noise, levels)
    truth = reference_gradients(case, noisy, wanted, levels, captions)
    cosines = list[float]()
    for recomputed in (False, True):
        case.host.checkpointing = recomputed
        found = gradients(case, noisy, wanted, levels, captions)
        cosines += [cosine(found[name], value) for name, value in truth.items() if bool(value.any())]
    case.host.checkpointing = False
    return min(cosines)


def gradients(case: Case, noisy: Any, wanted: Any, levels: Any, captions: Any) -> dict[str, torch.Tensor]:
    with torch.inference_mode(False):
        factors = random_factors(case.targets)
        for chain in factors.values():
            chain.mid.requires_grad_()
            chain.up.requires_grad_()
    injection = pack("metalora_core.inject").Injection
    with torch.inference_mode(), case.host.training(), injection(case.host.model, case.targets, factors):
        loss = (case.host.predict(noisy.to(case.host.dtype), levels, captions).float() - wanted).square().mean()
        loss.backward()
    named = {f"{name}.{part}": getattr(chain, part) for name, chain in factors.items() for part in ("mid", "up")}
    return {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in named.items()}


def meta_train(case: Case) -> bool:
    """Meta-Train Prior on two subjects with captions of two lengths."""
    _write_subjects()
    bridge = pack("nodes.bridge.prior_training")
    small = {"steps": 2, "r_meta": 4, "r_mid": 2, "subjects_per_batch": 2, "resolution": case.side}
    request = bridge.PriorRequest("families", "dog", filename=case.family.name, checkpointing="off", **small)
    with torch.inference_mode():
        made = bridge.train_prior(case.model, case.clip, case.vae, request)
    case.prior = made.prior
    return len(made.losses) > 0 and all(loss == loss for loss in made.losses)


@functools.cache
def _write_subjects() -> None:
    pictures, root = pack("metalora_core.photos.pictures"), folders() / "input" / "families"
    generator = torch.Generator().manual_seed(4)
    for subject in range(2):
        for number, picture in enumerate(map(pictures.to_pil, torch.rand(2, 3, 128, 128, generator=generator))):
            pictures.save_picture(picture, root / str(subject) / f"{number}.png")
            (root / str(subject) / f"{number}.txt").write_text(CAPTIONS[number])


def adapt(case: Case) -> bool:
    """Adapt Identity in four steps; the base stays bit-identical."""
    before = {name: _bits(parameter) for name, parameter in case.model.model.named_parameters()}
    _learn(case, "")
    return all(torch.equal(before[name], _bits(p)) for name, p in case.model.model.named_parameters())


def two_caption_lengths(case: Case) -> bool:
    """The same with captions of two lengths."""
    losses = _learn(case, "\n".join(CAPTIONS))
    return all(loss == loss for loss in losses)


def without_prior(case: Case) -> bool:
    """Adapt Identity with nothing at its prior input: the saved file alone applies and exports, the same both ways."""
    import nodes

    files, path = pack("nodes.files"), folders() / "models" / "loras" / f"{case.family.name}_alone.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    with_prior, case.prior = case.prior, None
    _learn(case, CAPTIONS[0])
    learned, case.prior = case.learned, with_prior
    with torch.inference_mode():
        files.SaveIdentity.execute(learned, f"{case.family.name}_alone")
        alone = files.LoadIdentity.execute(f"{case.family.name}_alone.safetensors").args[0]
        pack("nodes.bridge.exporting").export_identity(path, alone, "comfyui", "float32")
        exported = nodes.LoraLoaderModelOnly().load_lora_model_only(case.model, path.name, 1.0)[0]
    shown = latents_of(case, applied(case, alone.factors(), method="patch"))
    same = torch.equal(shown, latents_of(case, exported)) and len(exported.patches) == len(case.targets)
    return same and not torch.equal(shown, latents_of(case, case.model))


def _learn(case: Case, caption: str) -> list[float]:
    settings = {"steps": 4, "seed": 0, "resolution": case.side, "learning_rate": 5.0, "checkpointing": "off"}
    # Without a prior the rate finds itself.
    settings |= {} if case.prior else {"learning_rate": 1.0}
    with torch.inference_mode():
        references = prepare(_photos(), class_word="dog", caption=caption)[0]
        parts = {"model": case.model, "clip": case.clip, "vae": case.vae, "prior": case.prior}
        found = pack("nodes.adapt").AdaptIdentity.execute(**parts, references=references, batch_size=2, **settings).args
    case.learned = found[0]
    return found[2]["loss"]


def _bits(parameter: Any) -> torch.Tensor:
    plain = torch.Tensor.as_subclass(getattr(parameter, "_qdata", parameter.data), torch.Tensor)
    return plain.contiguous().view(torch.uint8).clone()


@functools.cache
def _photos() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    y, x = torch.meshgrid(torch.linspace(0, 6, 128), torch.linspace(0, 6, 128), indexing="ij")
    waves = [[(torch.sin(3 * x + k) * torch.cos(2 * y + c) + 1) / 2 for c in range(3)] for k in range(2)]
    drawn = [torch.stack(wave, -1) * 0.7 + torch.rand(128, 128, 3, generator=generator) * 0.3 for wave in waves]
    return torch.stack(drawn)


def apply(case: Case) -> bool:
    """Patched and bypassed give the same latents, which differ from the base's; strength 0 changes nothing."""
    base, factors = latents_of(case, case.model), case.learned.factors()
    case.sampled["base"] = base
    for method in ("patch", "bypass"):
        case.sampled[method] = latents_of(case, applied(case, factors, method=method))
    moved = float((case.sampled["patch"] - base).abs().max())
    apart = float((case.sampled["patch"] - case.sampled["bypass"]).abs().max())
    same = torch.equal(latents_of(case, applied(case, factors, strength=0.0)), base)
    return same and moved > 0 and apart <= 1e-3 * max(moved, float(base.abs().max()))


def applied(case: Case, factors: Any, strength: float = 1.0, method: str = "auto") -> Any:
    """A clone of the model with an identity."""
    patching = pack("nodes.bridge.patching")
    with torch.inference_mode():
        return patching.apply_identity(case.model, factors, strength, patching.Window(), method, "identity")[0]


def removal(case: Case) -> bool:
    """After all of that the model gives the latents that it gave before, bit for bit."""
    return torch.equal(latents_of(case, case.model), case.sampled["base"])


def export(case: Case) -> bool:
    """Both layouts in core's Load LoRA: every key is taken, and the latents are those of the patched model."""
    import nodes

    files = pack("nodes.bridge.exporting")
    for layout in ("comfyui", "kohya"):
        path = folders() / "models" / "loras" / f"{case.family.name}_{layout}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        files.export_identity(path, case.learned, layout, "float32")
        with torch.inference_mode():
            loaded = nodes.LoraLoaderModelOnly().load_lora_model_only(case.model, path.name, 1.0)[0]
        if len(loaded.patches) != len(case.learned.factors()):
            return False
        if layout == "comfyui" and not torch.equal(latents_of(case, loaded), case.sampled["patch"]):
            return False
    return True


def preview(case: Case) -> bool:
    """The preview that a card shows while it trains: colours of the latents, without the decoder."""
    latents = case.drawn(1)[0]
    colours = pack("nodes.bridge.host.latents").LatentFormat(case.model.model).colours(latents)
    return colours.dim() == 4 and colours.shape[:2] == (1, 3) and bool(((colours >= 0) & (colours <= 1)).all())


def latents_of(case: Case, model: Any) -> torch.Tensor:
    """Core's KSampler."""
    import nodes

    size = case.side // case.host.downscale
    with torch.inference_mode():
        empty = {"samples": torch.zeros(1, case.host.latent_channels, size, size)}
        positive = case.clip.encode_from_tokens_scheduled(CAPTIONS[0])
        settings = (SAMPLER_STEPS, 1.0, "euler", "simple", positive, positive, empty)
        return nodes.common_ksampler(model, 1, *settings)[0]["samples"].clone()


COLUMNS = (
    agrees_with_sampler,
    gradient_cosine_min,
    without_prior,
    meta_train,
    adapt,
    two_caption_lengths,
    apply,
    removal,
    export,
    preview,
)
