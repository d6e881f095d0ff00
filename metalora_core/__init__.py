"""Meta-LoRA: learn a subject in a fraction of the usual steps from a shared, meta-trained prior.

The library knows nothing of ComfyUI. The names below are its public face; each is imported when it is first used, so
``import metalora_core`` costs nothing. ``docs/library.md`` shows them at work.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adaptation import adapt
    from .applying import apply_identity
    from .files.export import export_lora
    from .files.identity import load_identity, own_prior, save_identity
    from .files.prior import load_prior, save_prior
    from .hosts.diffusers import DiffusersHost
    from .hosts.load import host_of_pipeline, load_diffusers_host
    from .meta_training import meta_train
    from .model.generation import Request, generate_pictures
    from .photos.pictures import save_pictures
    from .photos.reading import load_training_set
    from .photos.subject_folders import FolderSubjects
    from .photos.training_set import TrainingSet
    from .pocket.load import load_pocket_host, load_pocket_prior
    from .training.adaptation_options import AdaptationOptions
    from .training.meta_options import MetaTrainingOptions

__version__ = "0.1.0"

__all__ = [
    "AdaptationOptions",
    "DiffusersHost",
    "FolderSubjects",
    "MetaTrainingOptions",
    "Request",
    "TrainingSet",
    "__version__",
    "adapt",
    "apply_identity",
    "export_lora",
    "generate_pictures",
    "host_of_pipeline",
    "load_diffusers_host",
    "load_identity",
    "load_pocket_host",
    "load_pocket_prior",
    "load_prior",
    "load_training_set",
    "meta_train",
    "own_prior",
    "save_identity",
    "save_pictures",
    "save_prior",
]

_ROOMS = {
    "AdaptationOptions": "training.adaptation_options",
    "DiffusersHost": "hosts.diffusers",
    "FolderSubjects": "photos.subject_folders",
    "MetaTrainingOptions": "training.meta_options",
    "Request": "model.generation",
    "TrainingSet": "photos.training_set",
    "adapt": "adaptation",
    "apply_identity": "applying",
    "export_lora": "files.export",
    "generate_pictures": "model.generation",
    "host_of_pipeline": "hosts.load",
    "load_diffusers_host": "hosts.load",
    "load_identity": "files.identity",
    "load_pocket_host": "pocket.load",
    "load_pocket_prior": "pocket.load",
    "load_prior": "files.prior",
    "load_training_set": "photos.reading",
    "meta_train": "meta_training",
    "own_prior": "files.identity",
    "save_identity": "files.identity",
    "save_pictures": "photos.pictures",
    "save_prior": "files.prior",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_ROOMS[name]}", __name__), name)
