"""Priors from what people have, and what they are worth."""
