"""One error tree.

    FactoryError
    ├── SpecError         a task, scene, robot or generation setting contradicts itself or is unknown
    ├── DemoError         a demonstration file cannot be read or does not fit the task
    ├── BackendError      a simulator cannot build or run what was asked
    ├── EpisodeError      an episode shard is damaged or incomplete
    ├── DatasetError      a dataset cannot be written, verified or read
    ├── StorageError      the job book or the artefact store cannot be opened, read or written
    └── ServiceError      the service refused a request; carries the HTTP status

A message says what was asked, what was found, what would have been accepted, and where (file, key, shape, unit).
What is expected to fail now and then (an attempt, a judge call) is a result with a reason, never an exception.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FactoryError(Exception):
    """Base of every error a person may see; the command line turns it into one sentence and exit code 2."""


class SpecError(FactoryError):
    """A setting contradicts itself or names something that does not exist."""


class DemoError(FactoryError):
    """A demonstration file cannot be read, or what it holds does not fit the task."""


class BackendError(FactoryError):
    """A simulator cannot build or run what was asked of it."""


class EpisodeError(FactoryError):
    """An episode shard is damaged or incomplete."""


class DatasetError(FactoryError):
    """A dataset cannot be written, verified or read."""


class StorageError(FactoryError):
    """The job book or the artefact store cannot be opened, read or written."""


class ServiceError(FactoryError):
    """The service refused a request.

    Attributes:
        status: HTTP status.
        code: short machine name of what is wrong, stable.
        field: dotted name of the part of the request it is about; empty when it is about none.
        found: what was found there.
        allowed: what would have been accepted.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str = "bad_request",
        field: str = "",
        found: object = None,
        allowed: object = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.field, self.found, self.allowed = status, code, field, found, allowed


def unknown_name(kind: str, asked: str, known: Iterable[str]) -> str:
    """Return the sentence for a name that does not exist, with a near miss when there is one."""
    names = sorted(known)
    close = difflib.get_close_matches(asked, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"unknown {kind} {asked!r}.{hint} Known: {', '.join(names) or 'none'}."
