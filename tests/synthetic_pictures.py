"""Pictures that carry a number through lossy video; numpy alone, because two environments read it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BITS = 16
"""Number of black or white squares, in a 4 x 4 grid, that spell a frame's number."""


def frame_with_number(number: int, *, size: int = 64, tint: int = 0) -> NDArray[np.uint8]:
    """Return a picture that spells `number` in black and white squares; `tint` colours its grey rim by camera."""
    frame = np.full((size, size, 3), (90, 90 + tint, 120), np.uint8)
    square = size // 5
    margin = (size - 4 * square) // 2
    for bit in range(BITS):
        row, column = divmod(bit, 4)
        top, left = margin + row * square, margin + column * square
        frame[top : top + square, left : left + square] = 235 if number >> bit & 1 else 20
    return frame


def number_in_frame(frame: NDArray[Any]) -> int:
    """Return the number a picture spells; its values may run 0..255 or 0..1."""
    size = len(frame)
    square = size // 5
    margin = (size - 4 * square) // 2
    bright = 0.5 if frame.max() <= 1.0 else 127.0
    number = 0
    for bit in range(BITS):
        row, column = divmod(bit, 4)
        top, left = margin + row * square, margin + column * square
        number |= int(frame[top + 3 : top + square - 3, left + 3 : left + square - 3].mean() > bright) << bit
    return number
