"""What a running node shows on the page, and whether the user has cancelled it."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ...metalora_core.errors import TrainingCancelled
from ...metalora_core.photos.pictures import to_pil
from ...metalora_core.training.loss_course import loss_course

_LOG = logging.getLogger(__name__)
LINE_POINTS = 100


def show_progress(step: int, steps: int, picture: Tensor | None = None, losses: Sequence[float] = ()) -> None:
    """Move the running node's progress bar and, if given, change its preview and the loss line that the page draws.

    Args:
        step: Steps done.
        steps: Total steps.
        picture: (3, H, W) in 0..1.
        losses: Of all steps or reports so far.
    """
    from comfy.cli_args import args
    from comfy_execution.progress import get_progress_state
    from comfy_execution.utils import get_executing_context

    context = get_executing_context()
    if context is None:
        return  # outside a prompt there is no node to show it on; a script or a test continues without a bar
    # Not through ComfyAPISync, which has no `execution` in older hosts.
    image: Any = None if picture is None else ("JPEG", to_pil(picture), args.preview_size)
    get_progress_state().update_progress(context.node_id, step, steps, image)
    if losses:
        course = _drawn(losses, step / steps)
        _send("metalora.progress", {"node": context.node_id, "step": step, "steps": steps, "course": course})


def show_text(text: str) -> None:
    """Log a line and show it on the running node."""
    from comfy_execution.utils import get_executing_context

    _LOG.warning(text)
    context = get_executing_context()
    if context is not None:
        from server import PromptServer

        PromptServer.instance.send_progress_text(text, context.node_id)


def report_with_course(report: str, losses: Sequence[float]) -> dict[str, Any]:
    """What a node that has trained sends to the page: its report, and the line of its losses."""
    return {"text": (report,), "course": _drawn(losses)}


def _drawn(losses: Sequence[float], done: float = 1.0) -> list[tuple[float, float]]:
    """The course of the losses in as many points as a node is wide enough for, the last one among them."""
    course = loss_course(losses, done)
    return course[:: -(1 + len(course) // LINE_POINTS)][::-1]


def _send(event: str, detail: Mapping[str, Any]) -> None:
    """Notify the pack's own part of the page; core's events have no field for a loss or a step's picture."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.send_sync(event, detail, server.client_id)


def show_sample(sample: Mapping[str, Any], steps: int) -> None:
    """Add the picture of a step that was kept to those that the running node shows: ``step`` and ``picture``."""
    from comfy_execution.utils import get_executing_context

    context = get_executing_context()
    if context is not None:
        _send("metalora.sample", {"node": context.node_id, "steps": steps, **sample})


def stop_if_cancelled() -> None:
    """Stop a run of the library if the user has pressed Cancel; the request is left for ComfyUI to handle.

    Raises:
        TrainingCancelled: If so.
    """
    from comfy import model_management

    if model_management.processing_interrupted():
        raise TrainingCancelled("The run was cancelled.")


@contextmanager
def cancellable() -> Generator[None]:
    """Around all that a node does: a run that was cancelled ends as ComfyUI expects it, and not as an error.

    Raises:
        InterruptProcessingException: ComfyUI's own, in place of the library's.
    """
    try:
        yield
    except TrainingCancelled as cancellation:
        from comfy import model_management

        raise model_management.InterruptProcessingException() from cancellation
