"""What turns pictures and prompts into vectors: a vision model of transformers in a folder of the user's.

Only safetensors weights of architectures that transformers itself brings are loaded: nothing is unpickled, no code of
the folder is run, nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...checks import optional
from ...errors import UnreadableFile
from ...model.weights_digest import weights_digest
from ...photos.pictures import to_pil
from ...pocket.world.factors import Domain

__all__ = ["Embedder", "load_embedder", "pocket_embedder"]

_AT_ONCE = 16


class Embedder:
    """A vision model, and its text side where it has one.

    Args:
        model: Of transformers, in evaluation mode.
        processor: Its image processor.
        tokenizer: For a model that reads prompts too (CLIP, SigLIP); None for others.
        pooled: Whether its pooled vector is meaningful; the class token is taken where it is not.
    """

    def __init__(self, model: Any, processor: Any, tokenizer: Any = None, *, pooled: bool = True) -> None:
        self._model, self._processor, self._tokenizer, self._pooled = model, processor, tokenizer, pooled

    def weights_digest(self) -> str:
        """Of the model's parameters."""
        return weights_digest(self._model.named_parameters())

    @property
    def reads_prompts(self) -> bool:
        """Whether `prompts` works."""
        return self._tokenizer is not None and hasattr(self._model, "get_text_features")

    @torch.no_grad()
    def pictures(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in 0..1 to vectors (B, features) of unit length, on the CPU."""
        look = getattr(self._model, "get_image_features", self._model)
        rows: list[Tensor] = []
        for part in pictures.split(_AT_ONCE):
            given = self._processor(images=[to_pil(picture) for picture in part], return_tensors="pt")["pixel_values"]
            seen = look(pixel_values=given.to(self._model.device, self._model.dtype))
            rows.append(_vectors(seen, self._pooled))
        return F.normalize(torch.cat(rows).float().cpu(), dim=-1)

    @torch.no_grad()
    def prompts(self, prompts: list[str]) -> Tensor:
        """Prompts to vectors (B, features) of unit length, on the CPU."""
        tokens = self._tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
        found = self._model.get_text_features(**{name: rows.to(self._model.device) for name, rows in tokens.items()})
        return F.normalize(_vectors(found).float().cpu(), dim=-1)

    def likelihoods(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        """Probability of every prompt, given one of them, for every picture, (pictures, prompts)."""
        scale = getattr(self._model, "logit_scale", None)
        sharpness = 100.0 if scale is None else float(scale.detach().exp())
        return (sharpness * self.pictures(pictures) @ self.prompts(prompts).mT).softmax(dim=1)


def _vectors(output: Any, use_pooled: bool = True) -> Tensor:
    """One vector a row, however the model hands them out."""
    if isinstance(output, Tensor):
        return output
    pooled: Tensor | None = getattr(output, "pooler_output", None) if use_pooled else None
    return output.last_hidden_state[:, 0] if pooled is None else pooled


def load_embedder(folder: Path, device: torch.device | str = "cpu") -> Embedder:
    """Load a vision model (DINOv2, CLIP, SigLIP, a face model as ViT…) from a local folder of transformers.

    Args:
        folder: With config.json, preprocessor_config.json and model.safetensors.
        device: Where it runs.

    Raises:
        UnreadableFile: If the folder holds no such model.
        MissingDependency: If transformers is not installed.
    """
    transformers = optional("transformers", "An embedder from a folder")
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        if not (folder / "config.json").is_file():
            raise OSError("config.json is missing")
        loader: Any = transformers.AutoModel
        model, report = loader.from_pretrained(str(folder), use_safetensors=True, output_loading_info=True, **local)
        pooled = _pooled(report["missing_keys"])
        processor: Any = transformers.AutoImageProcessor.from_pretrained(str(folder), **local)
        words = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json"))
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(str(folder), **local) if words else None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        raise UnreadableFile(
            f"{folder} is not a vision model that transformers can load ({str(error)[:300]}). Give a folder with "
            "config.json, preprocessor_config.json and model.safetensors."
        ) from error
    return Embedder(model.eval().requires_grad_(False).to(device), processor, tokenizer, pooled=pooled)


def _pooled(missing: Iterable[str]) -> bool:
    """Whether the model's pooler is in the file; a missing one is random and must not be used.

    Raises:
        ValueError: If anything else is missing.
    """
    others = sorted(name for name in missing if "pooler" not in name.split("."))
    if others:
        raise ValueError(f"model.safetensors lacks {', '.join(others[:3])}")
    return not list(missing)


def pocket_embedder(domain: Domain) -> Callable[[Tensor], Tensor]:
    """The pocket model's own scorer: pictures (B, 3, H, W) in 0..1 to vectors (B, features) of unit length."""
    from ...pocket.load import load_readers

    reader = load_readers()[domain]

    def embed(pictures: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            small = F.interpolate(pictures.clone(), size=(128, 128), mode="bilinear", antialias=True)
            read, _ = reader(small.clamp(0, 1))
        # Factors are in 0..1; around their middle, opposite people point in opposite directions.
        return F.normalize(read - 0.5, dim=-1)

    return embed
