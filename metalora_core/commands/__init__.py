"""The commands of ``python -m metalora_core``, one file each; heavy imports are inside them."""
