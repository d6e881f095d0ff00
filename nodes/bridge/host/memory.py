"""Whether a training should save memory at the cost of time."""

from __future__ import annotations

from typing import Any

COMFORTABLE_BYTES = 24 * 1024**3


def wants_checkpointing(choice: str, model: Any) -> bool:
    """Resolve "auto", "on" or "off": auto saves memory on cards below 24 GB, never on a CPU."""
    if choice != "auto":
        return choice == "on"
    from comfy import model_management

    device = model.load_device
    if device.type == "cpu":
        return False
    total = model_management.get_total_memory(device)
    return total < COMFORTABLE_BYTES
