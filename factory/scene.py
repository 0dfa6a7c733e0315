"""What a simulator shows of a scene: poses, velocities, joints and contacts, with one leading axis.

The leading axis N is time (the steps of one attempt or demo) or environments; predicates do not care which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from factory.errors import SpecError, unknown_name

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SceneState:
    """Scene quantities over a leading axis N.

    Attributes:
        T_world_object: object name -> ``(N, 4, 4)`` poses in the world frame, metres.
        T_world_eef: end-effector name -> ``(N, 4, 4)`` poses of its grip frame in the world frame.
        T_world_base: end-effector name -> ``(4, 4)`` pose of the base its commands refer to; it never moves.
        velocity: object name -> ``(N, 6)`` linear (m/s) then angular (rad/s) velocity in the world frame.
        joints: joint group name -> ``(N, k)`` positions (rad or m): "<eef>_arm", "<eef>_gripper" and scene joints.
        contacts: ``"a|b"`` -> ``(N,)`` bool, for the pairs of contact groups the scene declares.
    """

    T_world_object: Mapping[str, Array]
    T_world_eef: Mapping[str, Array]
    T_world_base: Mapping[str, Array]
    velocity: Mapping[str, Array] = field(default_factory=dict)
    joints: Mapping[str, Array] = field(default_factory=dict)
    contacts: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.T_world_eef.values())))

    def position(self, name: str) -> Array:
        """Return an object's position ``(N, 3)`` in metres, world frame."""
        if name not in self.T_world_object:
            raise SpecError(unknown_name("object", name, self.T_world_object))
        return self.T_world_object[name][:, :3, 3]

    def joint(self, name: str) -> Array:
        """Return a joint group's positions ``(N, k)``."""
        if name not in self.joints:
            raise SpecError(unknown_name("joint group", name, self.joints))
        return self.joints[name]

    def touching(self, a: str, b: str) -> NDArray[np.bool_]:
        """Return where contact groups a and b touch, ``(N,)``; the order does not matter."""
        for key in (f"{a}|{b}", f"{b}|{a}"):
            if key in self.contacts:
                return self.contacts[key]
        raise SpecError(unknown_name("contact pair", f"{a}|{b}", self.contacts))


Predicate = Callable[[SceneState], NDArray[np.bool_]]
"""A pure function from a scene state to ``(N,)`` truth values."""


def take(state: SceneState, index: slice | int) -> SceneState:
    """Return part of a state; an integer keeps the leading axis with length 1."""
    cut = slice(index, index + 1 or None) if isinstance(index, int) else index
    return SceneState(
        T_world_object={k: v[cut] for k, v in state.T_world_object.items()},
        T_world_eef={k: v[cut] for k, v in state.T_world_eef.items()},
        T_world_base=state.T_world_base,
        velocity={k: v[cut] for k, v in state.velocity.items()},
        joints={k: v[cut] for k, v in state.joints.items()},
        contacts={k: v[cut] for k, v in state.contacts.items()},
    )


def concatenate(states: Sequence[SceneState]) -> SceneState:
    """Join states of one scene along the leading axis, in order."""
    first = states[0]

    def join(name: str) -> dict[str, NDArray]:
        return {k: np.concatenate([getattr(s, name)[k] for s in states]) for k in getattr(first, name)}

    return SceneState(
        T_world_object=join("T_world_object"),
        T_world_eef=join("T_world_eef"),
        T_world_base=first.T_world_base,
        velocity=join("velocity"),
        joints=join("joints"),
        contacts=join("contacts"),
    )
