"""The model libraries' progress bars and remarks, kept off the terminal while they read and write folders."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging


@contextmanager
def quietly() -> Generator[None]:
    """Keep diffusers and transformers quiet within the block; what goes wrong is raised, not logged."""
    loggers: Any = (diffusers_logging, transformers_logging)
    before = [each.get_verbosity() for each in loggers]
    for each in loggers:
        each.set_verbosity_error()
        each.disable_progress_bar()
    try:
        yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.set_verbosity(level)
            each.enable_progress_bar()
