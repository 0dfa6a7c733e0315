"""Named moments at which a test may pull the plug: `reached(NAME)` does nothing unless somebody installed a hook.

They stand where a crash would be most awkward, so that tests can put one exactly there instead of hoping for it.
"""

from __future__ import annotations

from collections.abc import Callable

_hooks: list[Callable[[str], None]] = []


def reached(name: str) -> None:
    """Say that a named moment is now."""
    for hook in _hooks:
        hook(name)


def install(hook: Callable[[str], None]) -> None:
    """Call a hook with the name of every moment from now on, in this process."""
    _hooks.append(hook)
