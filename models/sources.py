"""Names of where weights come from, beside files. Pure."""

DEFAULT = "default"
"""Trained ones where there are such, else drawn from a seed."""
IMAGENET = "imagenet"
