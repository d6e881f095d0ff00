"""From command-line options to a host, a prior and a picture size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InvalidOptions

if TYPE_CHECKING:
    import torch

    from ..files.identity import Identity
    from ..files.prior import Prior
    from ..hosts.block_store import BlockPlace
    from ..hosts.diffusers import DiffusersHost

POCKET = "pocket"
POCKET_DOMAINS = ("avatars", "products")
NO_PRIOR = "none"
USUAL_PX = 512  # if neither the prior nor the model gives a picture size
_POCKET_PX = 128
LARGEST_PICTURE_PX = 8192
_DTYPES = ("float32", "bfloat16", "float16")


def choose_device(device: str) -> torch.device:
    """The device of that name, or this machine's best one for an empty name.

    Raises:
        InvalidOptions: If torch knows no such device, or this machine has none.
    """
    import torch

    if not device:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        # Torch knows some backends by name but refuses the first tensor.
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InvalidOptions(f"This machine has no device {device!r}; give cpu, cuda, cuda:N or mps.") from error


def choose_dtype(dtype: str) -> torch.dtype:
    """The floating-point type of that name.

    Raises:
        InvalidOptions: If it is not float32, bfloat16 or float16.
    """
    import torch

    if dtype not in _DTYPES:
        raise InvalidOptions(f"dtype {dtype!r} is not supported; give one of {', '.join(_DTYPES)}.")
    found: Any = getattr(torch, dtype)
    return found


def block_place(*, swap_blocks: bool, fp8_blocks: bool) -> BlockPlace:
    """Where a command line wants a model's blocks: in main memory, in eight bits, both or neither."""
    import torch

    from ..hosts.block_store import BlockPlace

    return BlockPlace(swap_blocks, torch.float8_e4m3fn if fp8_blocks else None)


def load_base_model(
    model: str,
    device: str,
    dtype: str,
    pipeline_config: str = "",
    *,
    compiled: bool = False,
    blocks: BlockPlace | None = None,
) -> DiffusersHost:
    """Load the pocket model or a diffusers model as a host.

    Args:
        model: "pocket", or the path of a diffusers folder or single file.
        device: As in choose_device.
        dtype: As in choose_dtype; the pocket model is always float32.
        pipeline_config: For a single file, the folder with its pipeline's configuration.
        compiled: Passes of a training are compiled.
        blocks: Where the blocks are kept.

    Raises:
        InvalidOptions: If there is nothing at the path, or blocks cannot be kept as asked.
    """
    import torch

    from ..hosts.block_store import BlockPlace

    blocks = blocks or BlockPlace()
    if compiled and blocks != BlockPlace():
        raise InvalidOptions("--compile does not work with --swap-blocks or --fp8-blocks; remove --compile.")
    if model == POCKET:
        if blocks != BlockPlace():
            raise InvalidOptions("The pocket model is only 5 MB; remove --swap-blocks and --fp8-blocks.")
        from ..pocket import load_pocket_host

        # It is so small that a second thread costs more than it saves, on a busy machine many times more.
        torch.set_num_threads(1)
        pocket = load_pocket_host()
        pocket.compiled = compiled
        return pocket
    if not Path(model).exists():
        raise InvalidOptions(f"No model at {model}; give an existing folder or file, or {POCKET!r}.")
    from ..hosts.load import load_diffusers_host

    _require_whole(Path(model), pipeline_config)
    return load_diffusers_host(
        Path(model),
        device=choose_device(device),
        dtype=choose_dtype(dtype),
        pipeline_config=Path(pipeline_config) if pipeline_config else None,
        compiled=compiled,
        blocks=blocks,
    )


def _require_whole(path: Path, pipeline_config: str) -> None:
    """Refuse a denoiser alone before its gigabytes are read."""
    from ..hosts.pipelines import holds_text_encoders

    lone_folder = path.is_dir() and not (path / "model_index.json").is_file() and (path / "config.json").is_file()
    lone_file = path.suffix == ".safetensors" and not pipeline_config and not holds_text_encoders(path)
    if lone_folder or lone_file:
        raise InvalidOptions(
            f"{path} has only the denoiser; text encoders and autoencoder are missing. Give a diffusers pipeline "
            "folder as --model, or add --pipeline-config FOLDER, a pipeline folder of the same family with the rest."
        )


def require_output(path: Path, suffix: str, *inputs: Path | str) -> None:
    """Refuse, before work starts, an output that cannot be written or would overwrite an input.

    Args:
        path: The file to write; an older result there is replaced.
        suffix: The ending that its name must have.
        inputs: Files and folders that are read, or the names of shipped ones.

    Raises:
        InvalidOptions: If the name has another ending, or is an input or inside one.
        UnwritableFile: If it cannot be written.
    """
    from ..files.atomic import require_writable

    if path.suffix.lower() != suffix:
        raise InvalidOptions(f"{path} does not end in {suffix}. Change its name.")
    read = [Path(one).resolve() for one in inputs if str(one) not in ("", POCKET, NO_PRIOR, *POCKET_DOMAINS)]
    if any(path.resolve() == one or (one.is_dir() and one in path.resolve().parents) for one in read):
        raise InvalidOptions(
            f"{path} is also an input, or lies inside an input folder, and would be overwritten. Choose another "
            "--output."
        )
    require_writable(path)


def require_folder(path: Path, source: Path) -> None:
    """Refuse, before work starts, an output folder that cannot be written to or lies in the folder that is read.

    Raises:
        InvalidOptions: If it is the source or inside it.
        UnwritableFile: If it cannot be written to.
    """
    from ..files.atomic import require_writable

    if path.resolve().is_relative_to(source.resolve()):
        raise InvalidOptions(f"{path} is the folder of the subjects, or lies inside it. Choose another --output.")
    require_writable(path / "manifest.csv")


def name_of(model: str) -> str:
    """The base model in words, for a prior's record."""
    if model != POCKET:
        return Path(model).stem
    from ..pocket.load import NAME

    return NAME


def checkpoint_beside(output: Path, asked: str) -> Path:
    """The checkpoint's path: the asked one, or OUTPUT.checkpoint.safetensors.

    Raises:
        InvalidOptions: If it is the output itself, or not a .safetensors file.
        UnwritableFile: If it cannot be written.
    """
    path = Path(asked) if asked else output.with_suffix(".checkpoint.safetensors")
    require_output(path, ".safetensors", output)
    return path


def prior_to_learn_with(choice: str, model: str, class_word: str) -> Prior | None:
    """The prior that a subject is learned with: the named one, or the pocket model's own; None to learn without.

    Raises:
        InvalidOptions: If no shipped prior covers the word.
        UnreadableFile: If the file is not a prior.
    """
    if choice == NO_PRIOR or (not choice and model != POCKET):
        return None
    return load_prior_for(choice, model, class_word)


def prior_of(identity: Identity, choice: str, model: str) -> Prior:
    """The prior of a learned identity: its own, or one loaded as `load_prior_for` says.

    Raises:
        InvalidOptions: See `load_prior_for`.
        UnreadableFile: If the file is not a prior.
    """
    from ..files.identity import own_prior

    return own_prior(identity) or load_prior_for(choice, model, identity.metadata.class_word)


def load_prior_for(choice: str, model: str, class_word: str) -> Prior:
    """Load the named prior, or the pocket prior for the class word's domain.

    Raises:
        InvalidOptions: If no prior is named and the model is not the pocket model, or no shipped prior covers the word.
        UnreadableFile: If the file is not a prior.
    """
    from ..files.prior import load_prior

    if not choice:
        if model != POCKET:
            raise InvalidOptions(f"This identity was learned with a prior for {model}; give it with --prior FILE.")
        choice = _pocket_domain(class_word)
    if choice in POCKET_DOMAINS:
        from ..pocket import load_pocket_prior

        return load_pocket_prior(choice)
    return load_prior(Path(choice))


def _pocket_domain(class_word: str) -> str:
    from ..pocket.world.factors import PRODUCT_KINDS

    domains = {"person": "avatars"} | dict.fromkeys(PRODUCT_KINDS, "products")
    if class_word.lower() not in domains:
        raise InvalidOptions(
            f"No shipped prior covers {class_word!r}. Use one of these class words: {', '.join(domains)}; or pass "
            f"--prior FILE or --prior {' or --prior '.join(POCKET_DOMAINS)} to adapt, generate and export. To learn "
            f"without a prior, pass --prior {NO_PRIOR} to adapt."
        )
    return domains[class_word.lower()]


def require_drawable(size: int) -> None:
    """Refuse a size that no model can generate; 0 stands for the model's usual one.

    Raises:
        InvalidOptions: If the size is beyond 8,192 px.
    """
    if size > LARGEST_PICTURE_PX:
        raise InvalidOptions(f"{size} px is larger than any model can generate; give at most {LARGEST_PICTURE_PX}.")


def picture_size_px(host: DiffusersHost, model: str, size: int) -> int:
    """The requested size, or the model's usual size, checked against the host's grid.

    Raises:
        InvalidOptions: If the size does not fit the model's latent grid, or is beyond 8,192 px.
    """
    require_drawable(size)
    size = size or (_POCKET_PX if model == POCKET else host.base.side_px)
    grid = 2 * host.downscale
    if size % grid:
        nearest = size // grid * grid or grid
        raise InvalidOptions(f"{size} px does not fit this model; give a multiple of {grid}, such as {nearest}.")
    return size
