"""Meta-LoRA: learn a subject in a fraction of the usual steps from a shared, meta-trained prior.

The library knows nothing of ComfyUI. Import the module you need, for example ``metalora_core.adaptation``;
nothing heavy is imported here.
"""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = ["__version__"]
