"""A preset adaptation at FLUX.1-dev's true size on a GPU: random bf16 weights made on the card, nothing downloaded.

    python benchmarks/flux_12b.py [--json FILE]

Per picture size: step time, share of the card's measured bf16 matrix rate, peak memory, time of a whole preset.
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

from metalora_core.adaptation import PRESETS, adapt
from metalora_core.files.prior import Prior, PriorLayer, PriorMetadata
from metalora_core.targets import fingerprint

FLUX_DEV = case.Size(24, 19, 38, 4096, 768, words=512)
STEPS = 20


def matrix_rate(side: int = 8192, repeats: int = 20) -> float:
    """Floating-point operations a second of a bf16 product on this card."""
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    a @ b
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(repeats):
        a @ b
    torch.cuda.synchronize()
    return 2 * side**3 * repeats / (time.perf_counter() - began)


def make_host(checkpointing: bool) -> case.CaseHost:
    from diffusers import FluxTransformer2DModel

    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model: Any = FluxTransformer2DModel(**(FLUX_DEV.config() | {"guidance_embeds": True}))
    torch.set_default_dtype(torch.float32)
    return case.CaseHost(model.eval().requires_grad_(False), gradient_checkpointing=checkpointing)


def make_prior(host: case.CaseHost) -> Prior:
    targets = case.targets_of(host)
    generator = torch.Generator().manual_seed(0)
    layers = {
        t.name: PriorLayer(torch.randn(case.R_META, t.shape[1], generator=generator) / t.shape[1] ** 0.5)
        for t in targets
    }
    metadata = PriorMetadata(
        name="random", family="flux", base_fingerprint=fingerprint(targets), domain="none", r_meta=case.R_META,
        r_mid=case.R_MID, scale=1.0,
    )  # fmt: skip
    return Prior(layers, metadata)


def operations(host: case.CaseHost, tokens: int) -> float:
    """Of one step: two operations a weight and token, forward and backward to the input, and attention likewise."""
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
    passes = 3 if host.checkpointing else 2
    return passes * 2 * (weights - double / 2) * tokens + (passes + 0.5) * attention


def measure_side(host: case.CaseHost, prior: Prior, pixels: int, rate: float) -> dict[str, float]:
    side = pixels // 8
    host.sample = {
        "latent": torch.randn(1, case.CHANNELS, side, side),
        "context": torch.randn(1, FLUX_DEV.words, FLUX_DEV.context),
        "pooled": torch.randn(1, FLUX_DEV.pooled),
    }
    photos = case.TrainingSet((torch.full((3, pixels, pixels), 0.5),), ("photo of a ohwx person",), "person", "ohwx")
    clock = measure.Clock()

    def work() -> None:
        adapt(host, prior, photos, measure.options(STEPS), on_progress=clock.on_progress)

    extra = measure.peak_extra_bytes(work)
    step_s = sorted(clock.step_ms)[len(clock.step_ms) // 2] / 1000
    tokens = (side // 2) ** 2 + FLUX_DEV.words
    return {
        "pixels": pixels,
        "checkpointing": host.checkpointing,
        "step_s": step_s,
        "share_of_bf16_rate": operations(host, tokens) / step_s / rate,
        "peak_gb": (torch.cuda.max_memory_allocated()) / 2**30,
        "extra_gb": extra / 2**30,
        "preset_s": step_s * PRESETS["standard"].steps,
    }


def show(row: dict[str, Any]) -> None:
    words = [f"{name} {value if isinstance(value, str) else f'{value:.3g}'}" for name, value in row.items()]
    print(", ".join(words), flush=True)


def main() -> None:
    if not torch.cuda.is_available():
        print("12 B Flux at 512 and 1024 px: not measured, there is no GPU")
        return
    rate = matrix_rate()
    print(f"{torch.cuda.get_device_name()}: {rate / 1e12:.0f} TFLOP/s in bf16 products")
    rows: list[dict[str, Any]] = []
    host = make_host(checkpointing=False)
    prior = make_prior(host)
    for pixels, checkpointing in ((512, False), (512, True), (1024, True)):
        host.checkpointing = checkpointing
        try:
            rows.append(measure_side(host, prior, pixels, rate) | {"blocks": "bf16, on the card"})
            show(rows[-1])
        except torch.cuda.OutOfMemoryError:
            print(f"{pixels} px, checkpointing {checkpointing}: does not fit this card")
    for home, name in (("cuda", "fp8, on the card"), ("cpu", "fp8, in main memory")):
        store = host.blocks_kept(torch.device(home), torch.float8_e4m3fn)
        torch.cuda.empty_cache()
        rows.append(measure_side(host, prior, 1024, rate) | {"blocks": name})
        show(rows[-1])
        store.bring_back()
    if "--json" in sys.argv:
        Path(sys.argv[sys.argv.index("--json") + 1]).write_text(json.dumps({"rate": rate, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
