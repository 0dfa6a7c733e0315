"""Script for the door."""

from __future__ import annotations

import math

import numpy as np

from factory import poses
from factory.scene import SceneState
from sim_tasks.demonstrators.strokes import Script, Stroke, Style, hand_down, raised, take, yaw_of
