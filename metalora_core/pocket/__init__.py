"""The pocket world: a complete small system, from procedural subjects to a trained model and its priors."""

from __future__ import annotations

from .load import load_pocket_host, load_pocket_prior, load_readers

__all__ = ["load_pocket_host", "load_pocket_prior", "load_readers"]
