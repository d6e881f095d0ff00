"""A preset adaptation at the true size of FLUX.1-dev and SDXL on a GPU: random bf16 weights, nothing downloaded.

    python benchmarks/large_models.py [--json FILE]

Per picture size: step time, share of the card's measured bf16 matrix rate (Flux), peak memory, time of a whole preset.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

import speed_case as case
import speed_measure as measure
import torch

from metalora_core.adaptation import adapt
from metalora_core.errors import OutOfMemory
from metalora_core.files.prior import Prior, PriorLayer, PriorMetadata
from metalora_core.hosts.block_store import BlockPlace
from metalora_core.model.families import default_patterns
from metalora_core.model.targets import choose_targets, fingerprint
from metalora_core.training.adaptation_options import AdaptationOptions
from metalora_core.training.retries import free_memory

FLUX_DEV = case.Size(24, 19, 38, 4096, 768, words=512)
SDXL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "use_linear_projection": True,
}
FP8 = torch.float8_e4m3fn
STEPS = 20
DEVICE = torch.device("cuda")


def matrix_rate(side: int = 8192, repeats: int = 20) -> float:
    """Floating-point operations a second of a bf16 product on this card."""
    a, b = (torch.randn(side, side, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    a @ b
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(repeats):
        a @ b
    torch.cuda.synchronize()
    return 2 * side**3 * repeats / (time.perf_counter() - began)


def make_host(family: str) -> case.CaseHost:
    """A host with random weights, made on the card: "flux" or "unet"."""
    from diffusers import FluxTransformer2DModel, UNet2DConditionModel

    torch.set_default_dtype(torch.bfloat16)
    with DEVICE:
        model: Any = (
            FluxTransformer2DModel(**(FLUX_DEV.config() | {"guidance_embeds": True}))
            if family == "flux"
            else UNet2DConditionModel(**SDXL)
        )
    torch.set_default_dtype(torch.float32)
    return case.CaseHost(model.eval().requires_grad_(False))


def make_prior(host: case.CaseHost) -> Prior:
    targets = choose_targets(host.targets(), default_patterns(host.family))
    generator = torch.Generator().manual_seed(0)
    layers = {
        t.name: PriorLayer(torch.randn(case.R_META, t.shape[1], generator=generator) / t.shape[1] ** 0.5)
        for t in targets
    }
    metadata = PriorMetadata(
        name="random", family=host.family, base_fingerprint=fingerprint(targets), domain="none", r_meta=case.R_META,
        r_mid=case.R_MID, scale=1.0,
    )  # fmt: skip
    return Prior(layers, metadata)


def operations(host: case.CaseHost, tokens: int, recomputing: bool) -> float:
    """Of one step of Flux: two a weight and token, forward and backward to the input, and attention likewise."""
    weights = sum(
        m.weight.numel()
        for name, m in host.model.named_modules()
        if isinstance(m, torch.nn.Linear) and "norm" not in name and "embed" not in name
    )
    # The text and the picture stream have weights of their own; each sees a share of the tokens.
    layers = [m for b in host.model.transformer_blocks for m in b.modules() if isinstance(m, torch.nn.Linear)]
    double = sum(layer.weight.numel() for layer in layers if layer.out_features != 6 * layer.in_features)
    blocks = FLUX_DEV.double + FLUX_DEV.single
    attention = 4 * tokens**2 * 128 * FLUX_DEV.heads * blocks
    passes = 3 if recomputing else 2
    return passes * 2 * (weights - double / 2) * tokens + (passes + 0.5) * attention


def sample_of(family: str, side: int) -> dict[str, torch.Tensor]:
    """Latent and caption of the model's sizes."""
    flux = family == "flux"
    return {
        "latent": torch.randn(1, case.CHANNELS if flux else 4, side, side),
        "context": torch.randn(1, *((FLUX_DEV.words, FLUX_DEV.context) if flux else (77, SDXL["cross_attention_dim"]))),
        "pooled": torch.randn(1, FLUX_DEV.pooled if flux else 1280),
    }


def measure_side(host: case.CaseHost, prior: Prior, pixels: int, rate: float, blocks: str) -> dict[str, Any]:
    """Figures of one picture size.

    Args:
        host: With the model on the card.
        prior: For it.
        pixels: Side of the picture.
        rate: Of bf16 products, see `matrix_rate`.
        blocks: Where the blocks are kept, for the row.
    """
    side = pixels // 8
    host.sample = sample_of(host.family, side)
    photos = case.TrainingSet((torch.full((3, pixels, pixels), 0.5),), ("photo of a ohwx person",), "person", "ohwx")
    clock, plans = measure.Clock(), list[str]()

    def work() -> None:
        result = adapt(host, prior, photos, measure.options(STEPS), on_progress=clock.on_progress)
        plans.append(result.memory)

    extra = measure.peak_extra_bytes(work)
    step_s = sorted(clock.step_ms)[len(clock.step_ms) // 2] / 1000
    row: dict[str, Any] = {
        "model": host.base.name,
        "pixels": pixels,
        "blocks": blocks,
        "plan": plans[0],  # more sparing than asked for where that did not fit
        "step_s": step_s,
        "peak_gb": torch.cuda.max_memory_reserved() / 2**30 if DEVICE.type == "cuda" else None,
        "extra_gb": extra / 2**30,
        "preset_s": step_s * AdaptationOptions().steps,
    }
    if host.family == "flux":
        tokens = (side // 2) ** 2 + FLUX_DEV.words
        row["share_of_bf16_rate"] = operations(host, tokens, "recomputing" in plans[0]) / step_s / rate
    return row


class Rows:
    """What has been measured; written after every row, so that a later failure costs nothing."""

    def __init__(self, rate: float, file: Path | None) -> None:
        self._rate, self._file = rate, file
        self._rows: list[dict[str, Any]] = []

    def measure(self, host: case.CaseHost, prior: Prior, pixels: int, blocks: str, limit_gb: float = 0) -> None:
        """Add a row, with no more of the card than asked for."""
        free_memory(DEVICE)
        if DEVICE.type == "cuda":
            whole = torch.cuda.get_device_properties(DEVICE).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, limit_gb * 2**30 / whole) if limit_gb else 1.0)
        try:
            row = measure_side(host, prior, pixels, self._rate, blocks)
        except (OutOfMemory, torch.OutOfMemoryError) as error:
            row = {
                "model": host.base.name,
                "pixels": pixels,
                "blocks": blocks,
                "does not fit": str(error).splitlines()[0],
            }
        finally:
            if DEVICE.type == "cuda":
                torch.cuda.set_per_process_memory_fraction(1.0)
        self._rows.append(row | ({"limit_gb": limit_gb} if limit_gb else {}))
        words = [f"{k} {f'{v:.3g}' if isinstance(v, float) else v}" for k, v in self._rows[-1].items()]
        print(", ".join(words), flush=True)
        if self._file is not None:
            card = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "none"
            self._file.write_text(json.dumps({"card": card, "rate": self._rate, "rows": self._rows}, indent=1))


def measure_flux(rows: Rows) -> None:
    """bf16 blocks on the card at both sizes; eight bits on a card of 24 GB, and in main memory for one of 16 GB."""
    host = make_host("flux")
    prior = make_prior(host)
    for pixels, checkpointing in ((512, False), (512, True), (1024, True)):
        host.checkpointing = checkpointing
        rows.measure(host, prior, pixels, "bf16, on the card")
    for place, limit_gb in ((BlockPlace(dtype=FP8), 24), (BlockPlace(in_main_memory=True, dtype=FP8), 16)):
        host.keep_blocks(place)
        rows.measure(host, prior, 1024, f"fp8, {'in main memory' if place.in_main_memory else 'on the card'}", limit_gb)


def measure_sdxl(rows: Rows) -> None:
    """SDXL at its own size, blocks kept and recomputed."""
    host = make_host("unet")
    prior = make_prior(host)
    for checkpointing in (False, True):
        host.checkpointing = checkpointing
        rows.measure(host, prior, 1024, "bf16, on the card")


def main() -> None:
    if not torch.cuda.is_available():
        print("12 B Flux at 512 and 1024 px, SDXL at 1024 px: not measured, there is no GPU")
        return
    rate = matrix_rate()
    print(f"{torch.cuda.get_device_name()}: {rate / 1e12:.0f} TFLOP/s in bf16 products")
    rows = Rows(rate, Path(sys.argv[sys.argv.index("--json") + 1]) if "--json" in sys.argv else None)
    measure_flux(rows)
    measure_sdxl(rows)


if __name__ == "__main__":
    main()
