"""The pack's model folders, with the user's extra_model_paths.yaml respected, and safe paths in them."""

from __future__ import annotations

from pathlib import Path

from ...metalora_core.errors import InvalidOptions, UnreadableFile

PRIORS = "metalora"
IDENTITIES = "metalora_identities"
ADAPTED = "adapted"
CONSENTS = "consent"


def register_folders() -> None:
    """Make both folders known to ComfyUI; paths that a user has configured come first."""
    import folder_paths

    for name in (PRIORS, IDENTITIES):
        folder_paths.add_model_folder_path(name, str(Path(folder_paths.models_dir) / name))
        paths, _ = folder_paths.folder_names_and_paths[name]
        folder_paths.folder_names_and_paths[name] = (paths, {".safetensors"})


def listed(folder: str) -> list[str]:
    """Names of the files in a folder and below it, as a widget shows them."""
    import folder_paths

    return [name for name in folder_paths.get_filename_list(folder) if not Path(name).name.startswith(".")]


def file_in(folder: str, name: str) -> Path:
    """The file that a widget names.

    Raises:
        UnreadableFile: If it is not there; the message says which folder was searched and what is in it.
    """
    import folder_paths

    found = folder_paths.get_full_path(folder, name) if name else None
    if found is None:
        there = ", ".join(listed(folder)[:10]) or "nothing"
        places = ", ".join(folder_paths.get_folder_paths(folder))
        raise UnreadableFile(
            f"{name or 'No file name'} was not found in models/{folder} ({places}). Found there: {there}. Put the file "
            "there, or choose another one and press R to refresh the list."
        )
    return _contained(Path(found), [Path(path) for path in folder_paths.get_folder_paths(folder)])


def new_file(folder: str, name: str, suffix: str = ".safetensors") -> Path:
    """Where a widget's file name is to be written; its folder is made.

    Raises:
        InvalidOptions: If the name is empty or leads out of the folder.
    """
    import folder_paths

    root = Path(folder_paths.get_folder_paths(folder)[0])
    stem = name.strip().removesuffix(suffix)
    if not stem or Path(stem).name in ("", ".", ".."):
        raise InvalidOptions(f"The file name {name!r} is empty. Give it a name, subfolders with a slash.")
    path = _contained(root / f"{stem}{suffix}", [root])
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _contained(path: Path, roots: list[Path]) -> Path:
    # A link inside the folder may point elsewhere on purpose, so names are compared, not what they resolve to.
    normal = Path(str(path).replace("\\", "/")).absolute()
    parts = [part for part in normal.parts if part != "."]
    if ".." in parts or not any(normal.is_relative_to(root.absolute()) for root in roots):
        raise InvalidOptions(f"The file name {path.name!r} leads out of {roots[0]}. Use a name inside that folder.")
    return path
