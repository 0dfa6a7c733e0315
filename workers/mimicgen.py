"""MimicGen where the user has it: the one place that reaches its environment, and whose task is whose.

MimicGen is distributed as source under a non-commercial licence and pins old versions; a package of that name on public
indexes is a stranger's. It is never imported, installed or required here: `--mimicgen-python` names the interpreter of
an environment in which its documented commands work, and it runs there as a subprocess.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from factory.errors import BackendError, unknown_name

TASKS: Mapping[str, tuple[str, str]] = {
    "Stack_D0": ("stack", "D0"),
    "Stack_D1": ("stack", "D1"),
    "StackThree_D0": ("stack_three", "D0"),
    "StackThree_D1": ("stack_three", "D1"),
    "Square_D0": ("square", "D0"),
    "Square_D1": ("square", "D1"),
    "Square_D2": ("square", "D2"),
}
"""MimicGen's environment -> our task and variant, where scene and starts are the same."""

_WHERE = "import mimicgen, pathlib; print(pathlib.Path(mimicgen.__path__[0]) / 'exps/templates/robosuite')"


def our_task(environment: str) -> tuple[str, str]:
    """Return our task and variant for one of MimicGen's environments.

    Raises:
        BackendError: no task here has the same scene.
    """
    if environment not in TASKS:
        raise BackendError(unknown_name("MimicGen environment with a scene of ours", environment, TASKS))
    return TASKS[environment]


def template_of(python: Path, task: str) -> Path:
    """Return where an environment's MimicGen keeps its template for a task, "stack" or "square".

    Raises:
        BackendError: that environment has no MimicGen, or no such template.
    """
    templates = Path(run(python, ["-c", _WHERE], f"{python} has no MimicGen").strip())
    template = templates / f"{task}.json"
    if not template.exists():
        known = sorted(file.stem for file in templates.glob("*.json"))
        raise BackendError(f"MimicGen has no template {task!r}; it has {', '.join(known)}")
    return template


def run(python: Path, words: Sequence[str], what: str) -> str:
    """Run an interpreter with arguments and return what it printed; `what` begins the message of a failure.

    Raises:
        BackendError: it cannot be started, or failed.
    """
    try:
        done = subprocess.run([str(python), *words], capture_output=True, text=True, check=False)  # noqa: S603 - the user's
    except OSError as error:
        raise BackendError(f"{what}: {error}") from error
    if done.returncode != 0:
        raise BackendError(f"{what}: {done.stderr.strip()[-500:]}")
    return done.stdout
