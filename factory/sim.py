"""What the engine asks of a simulator: blocks in, results out, N environments side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from factory.demos import AnnotatedDemo, Demo
from factory.errors import SpecError
from factory.scene import SceneState
from factory.specs import TaskSpec

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Block:
    """Targets for one end effector, one per control step.

    Attributes:
        T_world_eef: ``(t, 4, 4)`` target poses of the grip frame, world frame, metres.
        gripper: ``(t, g)`` gripper commands.
        action_noise: ``(t, 6)`` added to the normalised pose action, drawn beforehand; the sum is clipped again.
    """

    T_world_eef: Array
    gripper: Array
    action_noise: Array

    def __post_init__(self) -> None:
        t = len(self.T_world_eef)
        if t < 1 or self.T_world_eef.shape != (t, 4, 4) or len(self.gripper) != t or self.action_noise.shape != (t, 6):
            raise SpecError(
                f"block arrays disagree: T_world_eef {self.T_world_eef.shape}, gripper {self.gripper.shape}, "
                f"action_noise {self.action_noise.shape}; expected (t, 4, 4), (t, g), (t, 6) with t >= 1"
            )

    def __len__(self) -> int:
        return len(self.T_world_eef)

    def part(self, start: int, stop: int) -> Block:
        """Return steps [start, stop)."""
        return Block(
            T_world_eef=self.T_world_eef[start:stop],
            gripper=self.gripper[start:stop],
            action_noise=self.action_noise[start:stop],
        )


@dataclass(frozen=True, kw_only=True)
class Hold:
    """Keep the end effector's last target and gripper command for some control steps.

    Before any target was given, the target is the pose measured when the hold begins, the gripper open.
    """

    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise SpecError(f"a hold of {self.steps} control steps; it must be at least 1")

    def __len__(self) -> int:
        return self.steps

    def part(self, start: int, stop: int) -> Hold:
        """Return a hold of steps [start, stop)."""
        return Hold(steps=stop - start)


Commands = Mapping[str, Block | Hold]
"""End-effector name -> what it does next; all entries of one call have equal length."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything needed to continue bit for bit from one moment.

    Attributes:
        integration: the simulator's full integration state, flat float64.
        controller: named arrays the controller remembers between steps.
        overrides: named arrays written over the compiled model for this attempt (poses of fixed bodies).
    """

    integration: Array
    controller: Mapping[str, Array] = field(default_factory=dict)
    overrides: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BlockResult:
    """What happened during t control steps.

    Attributes:
        scene: state after each step, leading axis t.
        actions: ``(t, a)`` float32 actions as executed: after noise and clipping.
        T_world_eef_commanded: per end effector ``(t, 4, 4)``: the pose those actions actually ask for.
        sim_states: named arrays ``(t, ...)`` after each step ("time", "qpos", "qvel" for MuJoCo).
        stable: False when the simulator diverged; the arrays then end at the last finite step.
    """

    scene: SceneState
    actions: NDArray[np.float32]
    T_world_eef_commanded: Mapping[str, Array]
    sim_states: Mapping[str, Array]
    stable: bool = True


class SimBackend(Protocol):
    """A simulator holding `num_envs` independent environments of one task.

    After `reset`, `snapshot` and `advance`, results depend only on what was passed in, never on the environment's
    number or on what it did before.
    """

    task: TaskSpec
    num_envs: int
    determinism: Literal["bitwise", "statistical"]

    def reset(
        self, env: int, placements: Mapping[str, Array], rng: np.random.Generator, *, joint_noise_rad: float = 0.02
    ) -> SceneState:
        """Start environment `env` with object bodies at the given ``(4, 4)`` world poses.

        `rng` draws the arm's start posture, normal about its home with `joint_noise_rad`, and whatever the simulator
        places itself. Returns the state before the first step, leading axis 1.
        """
        ...

    def reset_to(self, env: int, demo: Demo) -> SceneState:
        """Start environment `env` from a stored demo's first simulator state; returns it, leading axis 1.

        Raises:
            DemoError: the demo stores no states of this scene.
        """
        ...

    def snapshot(self, env: int) -> Snapshot:
        """Return everything needed to continue from here."""
        ...

    def restore(self, env: int, snapshot: Snapshot) -> SceneState:
        """Continue from a snapshot; returns the state, leading axis 1."""
        ...

    def sim_state(self, env: int) -> Mapping[str, Array]:
        """Return the named state arrays now, without a leading axis."""
        ...

    def advance(self, commands: Mapping[int, Commands]) -> Mapping[int, BlockResult]:
        """Run each named environment through its commands; environments not named stand still."""
        ...

    def play(self, env: int, actions: NDArray[np.float32]) -> BlockResult:
        """Apply ``(t, a)`` recorded actions open loop, nothing added, nothing clipped beyond the controller's own."""
        ...

    def annotate(self, demo: Demo) -> AnnotatedDemo:
        """Turn a stored demo's simulator states into poses, targets, gripper commands and signals."""
        ...

    def describe(self) -> Mapping[str, str]:
        """Return name, versions, control mode, model hash: what provenance records about who ran an episode."""
        ...

    def model_source(self) -> str:
        """Return the scene's source text (MJCF); its hash is in `describe` as "model_sha"."""
        ...

    def close(self) -> None:
        """Release the simulator."""
        ...
