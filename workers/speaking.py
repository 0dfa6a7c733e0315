"""How commands speak: errors as one sentence, JSON for machines, a bar for what takes long."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import typer

from factory.errors import FactoryError

_EXTRAS: dict[str, str] = dict.fromkeys(
    ("torch", "diffusers", "transformers", "peft", "safetensors", "openai"), "dreams"
)
"""What may be missing -> the extra that brings it."""

P = ParamSpec("P")
R = TypeVar("R")


def sentences(command: Callable[P, R]) -> Callable[P, R]:
    """Turn the project's errors and the disk's into one sentence and exit code 2, and Ctrl-C into 130."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except FactoryError as error:
            typer.secho(f"error: {error}", err=True, fg="red")
            raise typer.Exit(2) from error
        except ModuleNotFoundError as error:
            extra = _EXTRAS.get(str(error.name).partition(".")[0])
            if extra is None:
                raise
            typer.secho(
                f"error: this command needs {error.name}; `pip install 'trajectory-factory[{extra}]'` brings it",
                err=True, fg="red",
            )  # fmt: skip
            raise typer.Exit(2) from error
        except OSError as error:
            if isinstance(error, BrokenPipeError):  # `factory tasks | head`
                raise
            typer.secho(f"error: {error}", err=True, fg="red")
            raise typer.Exit(2) from error
        except KeyboardInterrupt:
            typer.secho("\nstopped. Finished work is kept; run the same command again to go on.", err=True)
            raise typer.Exit(130) from None

    return run


def say(value: Any) -> None:
    """Print one JSON value on standard output."""
    typer.echo(json.dumps(value, indent=2, default=str))


@contextmanager
def progress_of(what: str, *, quiet: bool) -> Generator[Callable[[int, int], None]]:
    """Lend a function that hears how much is done, of how much, and shows it on standard error unless quiet."""
    from rich.console import Console  # noqa: PLC0415 - `factory --help` needs none of it
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    bars = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), disable=quiet, transient=True,
    )  # fmt: skip
    with bars:
        bar = bars.add_task(what, total=None)

        def said(done: int, of: int) -> None:
            bars.update(bar, completed=done, total=of)

        yield said
