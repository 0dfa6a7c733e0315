"""Values become pages: the Jinja environment, how numbers and times are written, and the policy every page carries."""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from fastapi import Request
from fastapi.responses import HTMLResponse

from api.keys import COOKIE
from api.pages import words

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"

POLICY = "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
"""No script or style inside a page runs, whatever a name or an uploaded file may contain."""

_SHORT_COMMAND = 100
"""Characters of a command that still fit one line of a page."""


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a rendered page; every text in it is escaped."""
    shared = {"here": request.url.path, "signed_in": COOKIE in request.cookies}
    html = _environment().get_template(template).render(**shared, **values)
    headers = {
        "Content-Security-Policy": POLICY,
        "Cache-Control": "no-store",
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }
    return HTMLResponse(html, status_code=status, headers=headers)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "bytes": size,
        "clock": clock,
        "duration": duration,
        "folded": folded,
        "iso": iso,
        "percent": percent,
        "thousands": thousands,
    }
    shared: dict[str, Any] = {"static": static, "words": words}
    environment.globals.update(shared)
    return environment


@functools.cache
def static(name: str) -> str:
    """Return the address of a file of the dashboard; it changes with its content, so that browsers may keep it."""
    mark = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:10]
    return f"/static/{name}?{mark}"


# --- how values are written -------------------------------------------------------------------------------------------


def percent(share: float | None, digits: int = 0) -> str:
    """Return a share of 1 as a percentage without its sign; a dash when there is none."""
    return "–" if share is None or math.isnan(share) else f"{100.0 * share:.{digits}f}"


def thousands(n: float) -> str:
    """Return a whole number with its thousands apart."""
    return f"{n:,.0f}"


def size(n: float) -> str:
    """Return a number of bytes for people, in powers of 1000 as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" or n >= 100 else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


def duration(seconds: float | None) -> str:
    """Return a time span in its two largest units: "42 s", "3 min 5 s", "2 h 10 min", "4 d 3 h"."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 0.05:
        return "0 s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    left = round(seconds)
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    parts: list[str] = []
    for length, name in units:
        count, left = divmod(left, length)
        if count or parts:
            parts.append(f"{count} {name}")
    return " ".join(part for part in parts[:2] if not part.startswith("0 "))


def iso(at: float) -> str:
    """Return a moment as HTML's <time> wants it, in UTC."""
    return dt.datetime.fromtimestamp(at, dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def clock(at: float) -> str:
    """Return a moment for people, in UTC; the browser replaces it by local time where it may."""
    return dt.datetime.fromtimestamp(at, dt.UTC).strftime("%d %b %Y %H:%M UTC").lstrip("0")


def folded(command: str) -> str:
    """Return a shell command with one option a line; pasted into a shell it is the same command."""
    try:
        parts = shlex.split(command)
    except ValueError:  # not a command a shell would take; show it as it is
        return command
    lines: list[str] = []
    for part in parts:
        if lines and not part.startswith("--"):
            lines[-1] += " " + shlex.quote(part)
        else:
            lines.append(shlex.quote(part))
    return command if len(command) < _SHORT_COMMAND else " \\\n  ".join(lines)


def flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return the leaves of nested settings as (dotted name, text); empty ones are left out."""
    found: list[tuple[str, str]] = []
    for name, item in value.items():
        if isinstance(item, Mapping):
            found += flat(item, f"{prefix}{name}.")
        elif isinstance(item, list | tuple):
            plain = [str(part) for part in item if not isinstance(part, Mapping)]
            found += [(prefix + name, ", ".join(plain))] if plain else []
        elif item is not None and item != "":
            found.append((prefix + name, str(item)))
    return found
