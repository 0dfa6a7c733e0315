"""Laws of a dream's clock: every picture has its row, every action its window, and nothing is shifted on the way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreams.timebase import TimeBase, merged, windows
from factory.errors import SpecError

STRIDES, FRAMES = st.integers(1, 6), st.integers(1, 14).map(lambda k: 4 * k + 1)


@given(STRIDES, FRAMES, st.data())
def test_a_clip_begins_and_ends_with_its_episode(stride: int, frames: int, data: st.DataObject):
    time = TimeBase(control_hz=20, stride=stride, frames=frames)
    length = data.draw(st.integers(1, time.steps))
    rows = time.rows(length)
    assert rows[0] == 0
    assert rows[-1] == length
    assert set(np.diff(rows[rows < length])) <= {stride}
    assert time.valid_steps(length).sum() == length
    assert time.video_hz * stride == 20


@given(STRIDES, FRAMES, st.data())
def test_windows_tile_the_clip_in_order(stride: int, frames: int, data: st.DataObject):
    time = TimeBase(control_hz=20, stride=stride, frames=frames)
    horizon = stride * data.draw(st.integers(1, frames - 1))
    where = windows(time, horizon=horizon)
    assert (np.diff(where.first) == 1).all()
    assert ((where.last - where.first) * stride == horizon).all()
    assert where.start[0] == 0
    assert where.start[-1] + horizon == time.steps


@given(st.sampled_from([1, 2, 4]), st.integers(0, 2**32))
def test_a_known_motion_comes_back_unshifted_and_undamped(stride: int, seed: int):
    """A perfect reader of windows gives back every action: the public code's scramble would damp and shift them."""
    time = TimeBase(control_hz=20, stride=stride, frames=33)
    steps = np.arange(time.steps)
    phase = np.random.default_rng(seed).uniform(0, 2 * np.pi, 3)
    truth = np.sin(2 * np.pi * steps[:, None] / 37.0 + phase)
    where = windows(time, horizon=16)
    read = np.stack([truth[start : start + 16] for start in where.start])
    mean, spread = merged(read, where, time.steps)
    np.testing.assert_allclose(mean, truth, atol=1e-12)
    np.testing.assert_allclose(spread[~np.isnan(spread)], 0.0, atol=1e-12)


def test_where_windows_disagree_it_is_said():
    time = TimeBase(control_hz=20, stride=4, frames=9)
    where = windows(time, horizon=16)
    said = np.zeros((len(where.start), 16, 2))
    said[1] = 1.0
    mean, spread = merged(said, where, time.steps)
    assert np.isnan(spread[:4]).all(), "one window sees the first steps"
    np.testing.assert_allclose(mean[4:8], 0.5)
    np.testing.assert_allclose(spread[4:8], np.sqrt(0.5))
    assert spread[19] > 0.0
    np.testing.assert_allclose(spread[20:28], 0.0)


def test_what_does_not_fit_is_refused():
    time = TimeBase(control_hz=20, stride=4, frames=33)
    with pytest.raises(SpecError, match="stride of 5"):
        time.rows(130)
    with pytest.raises(SpecError, match="multiple of 4"):
        windows(time, horizon=18)
    with pytest.raises(SpecError, match="4 k"):
        TimeBase(control_hz=20, stride=4, frames=32)
    with pytest.raises(SpecError, match="shape"):
        merged(np.zeros((3, 16, 2)), windows(time, horizon=16), time.steps)
