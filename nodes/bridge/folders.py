"""The pack's model folders, with the user's extra_model_paths.yaml respected, and safe paths in them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from ...metalora_core.checks import plain_line
from ...metalora_core.errors import InvalidOptions, UnreadableFile
from ...metalora_core.files.atomic import file_sha256, require_writable
from ...metalora_core.files.kept_steps import kept_steps
from ...metalora_core.files.names import checked_name
from ...metalora_core.files.row_file import row_files
from ...metalora_core.files.sweep import sweep, unfinished_beside

PRIORS = "metalora"
IDENTITIES = "metalora_identities"
ADAPTED = "adapted"
_MADE_WITH = {PRIORS: "Meta-Train Prior", IDENTITIES: "Adapt Identity"}
NEW_NAME, REPLACE = "new name", "replace"


def register_folders() -> None:
    """Register both folders with ComfyUI; paths that the user has configured come first."""
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
        there, places = ", ".join(listed(folder)[:10]), ", ".join(folder_paths.get_folder_paths(folder))
        what = f"{plain_line(name, 200)} was not found" if name else "No file is chosen"
        raise UnreadableFile(
            f"{what} in models/{folder} ({places}). {f'Files there: {there}' if there else 'The folder is empty'}. Put "
            f"a file there or make one with {_MADE_WITH[folder]}, press R to refresh the list and choose it."
        )
    return _contained(Path(found), roots_of(folder))


def roots_of(folder: str) -> list[Path]:
    """The places that make up a model folder, the one for new files first."""
    import folder_paths

    return [Path(path) for path in folder_paths.get_folder_paths(folder)]


def shown(folder: str, path: Path) -> str:
    """A file's path as reports show it: the model folder and the name in it, the same on every machine."""
    root = next((root for root in roots_of(folder) if path.is_relative_to(root.absolute())), path.parent)
    return f"{folder}/{path.relative_to(root.absolute()).as_posix()}"


def missing_file(folder: str, name: str) -> str:
    """Why a widget's file cannot be loaded, or an empty text."""
    try:
        file_in(folder, name)
    except (InvalidOptions, UnreadableFile) as reason:
        return str(reason)
    return ""


def file_state(folder: str, name: str) -> str:
    """Changes whenever the file changes, so that ComfyUI loads it again."""
    if missing_file(folder, name):
        return "missing"
    state = file_in(folder, name).stat()
    return f"{name} {state.st_size} {state.st_mtime_ns}"


POCKET_SUBJECTS = {"pocket avatars": "avatars", "pocket products": "products"}


def subject_sources() -> list[str]:
    """What a prior can be trained on: the pocket world's subjects, and folders in ComfyUI's input folder."""
    import folder_paths

    root = Path(folder_paths.get_input_directory())
    holding = [path.name for path in _folders_in(root) if _folders_in(path)]
    return [*POCKET_SUBJECTS, *(name for name in holding if not name.startswith("."))]


NOTHING = "none"


def lora_folders() -> list[str]:
    """Folders in ComfyUI's LoRA folders that hold LoRA files; "." for these themselves."""
    import folder_paths

    found = {Path(name).parent.as_posix() for name in folder_paths.get_filename_list("loras")}
    return [NOTHING, *sorted(found)]


def lora_folder(name: str) -> Path:
    """A folder of LoRA files.

    Raises:
        UnreadableFile: If it is not there.
        InvalidOptions: If the name leads outside the LoRA folders.
    """
    import folder_paths

    roots = [Path(path) for path in folder_paths.get_folder_paths("loras")]
    path = next((path for path in (_contained(root / name, roots) for root in roots) if path.is_dir()), None)
    if path is None:
        raise UnreadableFile(
            f"The folder {plain_line(name, 200)!r} was not found in models/loras. Put LoRA files of one kind of "
            "subject into a folder there, and press R."
        )
    return path


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:  # unreadable, or gone since it was listed
        return []


def input_folder(name: str) -> Path:
    """A folder in ComfyUI's input folder.

    Raises:
        UnreadableFile: If it is not there.
        InvalidOptions: If the name leads outside the input folder.
    """
    import folder_paths

    root = Path(folder_paths.get_input_directory())
    path = _contained(root / name, [root])
    if not path.is_dir():
        raise UnreadableFile(
            f"The folder {plain_line(name, 200)!r} was not found in {root}. Put one folder of photos per subject into "
            "it, and press R."
        )
    return path


def input_file(name: str) -> Path:
    """A picture in ComfyUI's input folder, as the page names it after an upload.

    Raises:
        UnreadableFile: If it is not there.
        InvalidOptions: If the name leads outside the input folder.
    """
    import folder_paths

    root = Path(folder_paths.get_input_directory())
    own_name, place = folder_paths.annotated_filepath(name)
    path = _contained(Path(place or root) / own_name.strip(), [root])
    if not path.is_file():
        raise UnreadableFile(
            f"{plain_line(name, 200)} was not found in ComfyUI's input folder. Add the photo again, or remove it from "
            "the node."
        )
    return path


def new_file(folder: str, name: str, suffix: str = ".safetensors") -> Path:
    """Path for a widget's file name; nothing is made yet.

    Raises:
        InvalidOptions: If the name leads outside the folder, or is one that no file has on every system.
    """
    root = roots_of(folder)[0]
    return _contained(root / checked_name(name, suffix), [root])


def place_in(folder: str, name: str) -> Path:
    """The place of this name in the first of a folder's roots that has a file there, else in the first.

    Raises:
        InvalidOptions: If the name leads outside the folder.
    """
    roots = roots_of(folder)
    places = [_contained(root / name, roots) for root in roots]
    return next((place for place in places if place.is_file()), places[0])


def _names_until_free(asked: Path) -> Iterator[Path]:
    """The asked name and the same with a number from 2 on, as long as files have them, and then the first free one."""
    number, path = 1, asked
    while path.exists():
        yield path
        number += 1
        path = asked.with_name(f"{asked.stem}_{number}{asked.suffix}")
    yield path


def unused_file(asked: Path, existing: str) -> Path:
    """Where a result is written: under the first free name, or, if `REPLACE` was chosen, the asked one."""
    return asked if existing == REPLACE else list(_names_until_free(asked))[-1]


def write_result(asked: Path, existing: str, write: Callable[[Path], str]) -> Path:
    """Write a result, over another one only if that is asked for.

    Args:
        asked: Where the user wants it, see `new_file`.
        existing: `REPLACE` writes there whatever is there.
        write: Writes the result to a path and returns the file's SHA-256; the same result always gives the same bytes.

    Returns:
        Where the result is now: of the file saved last under the name or its numbers, if that holds the same.
    """
    free = unused_file(asked, existing)
    *_, last = [asked, *(path for path in _names_until_free(asked) if path != free)]
    if free != asked:
        with TemporaryDirectory(prefix=".metalora-", suffix=".tmp", dir=asked.parent) as drafts:
            if write(Path(drafts) / last.name) == file_sha256(last):
                return last
    write(free)
    return free


def kept_note(asked: Path, path: Path) -> str:
    """That a file of the asked name was kept, or an empty text."""
    return "" if path == asked else f"{asked.name} was kept: it is another result. Choose replace to write over it."


def unfinished_run(folder: str, path: Path, days: float) -> Path:
    """Where the run that will write a file keeps its checkpoint; asked for before any work.

    What other runs of this folder left behind longer than so many days ago is deleted.

    Raises:
        UnwritableFile: If the folder cannot be written to.
    """
    unfinished = unfinished_beside(path)
    require_writable(unfinished)
    for own in (unfinished, *row_files(unfinished), *kept_steps(path).values()):
        with suppress(OSError):
            os.utime(own)  # so that no program takes it for left behind
    sweep(roots_of(folder), days, keep=[unfinished])
    return unfinished


def _contained(path: Path, roots: list[Path]) -> Path:
    # A link inside the folder may point elsewhere on purpose, so names are compared, not what they resolve to.
    normal = Path(str(path).replace("\\", "/")).absolute()
    parts = [part for part in normal.parts if part != "."]
    if ".." in parts or not any(normal.is_relative_to(root.absolute()) for root in roots):
        raise InvalidOptions(
            f"The file name {plain_line(path.name, 200)!r} leads outside {roots[0]}. Use a name inside that folder."
        )
    return path
