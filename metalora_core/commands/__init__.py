"""The commands of ``python -m metalora_core``, one file each; heavy imports stand inside them."""
