"""Many worlds of one scene on one device: load their states, run control steps, read what happened."""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportInvalidTypeForm=false, reportIndexIssue=false, reportOperatorIssue=false
from dataclasses import dataclass
from typing import Any

import mujoco
import mujoco_warp as mjw
import numpy as np
import warp as wp
from numpy.typing import NDArray

from factory.errors import BackendError
from factory.specs import RobotSpec
from sim_tasks.backends.mjwarp import control
from sim_tasks.backends.mjwarp.arms import JOINTS, arms_of

wp.set_module_options({"enable_backward": False})

Array32 = NDArray[np.float32]

CHUNK_STEPS = 32
"""Control steps run between two exchanges with the host; the orders of that many steps lie on the device."""

CONTACTS_PER_WORLD = 192
CONSTRAINTS_PER_WORLD = 512
"""Room for contacts (shared by all worlds; pairs that are only close count too) and constraint rows (each world's own).
The fullest task along its demonstrations, square, needs 71 and 293 (`python -m tests.benchmarks.mjwarp --room`)."""

DIVERGED = 1 << 30
"""Why a world stopped: its state is not finite, or above MuJoCo's own limit. Below are MuJoCo Warp's overflow bits."""

_LARGEST = 1e10  # MuJoCo's mjMAXVAL: above it a state counts as diverged

# Overflows that lose contacts or constraints. Reaching an iteration limit is not among them: MuJoCo stops there too.
_LOSSES = {
    bit: f"{str(bit.name).lower()} overflow"
    for bit in (
        mjw.OverflowType.NEFC,
        mjw.OverflowType.NJMAX_NNZ,
        mjw.OverflowType.BROADPHASE,
        mjw.OverflowType.NARROWPHASE,
        mjw.OverflowType.CCD,
        mjw.OverflowType.HFIELD,
        mjw.OverflowType.NVMAX,
        mjw.OverflowType.EPA_HORIZON,
    )
}
_LOSS_MASK = int(sum(int(bit) for bit in _LOSSES))


def reasons(bits: int) -> tuple[str, ...]:
    """Return in words why a world stopped; empty when it did not."""
    diverged = ("diverged",) if bits & DIVERGED else ()
    return diverged + tuple(words for bit, words in _LOSSES.items() if bits & int(bit))


@dataclass(frozen=True, kw_only=True)
class WorldState:
    """One world's memory between control steps, float32 as on the device.

    Attributes:
        qpos: ``(nq,)``; likewise qvel, warmstart ``(nv,)`` and ctrl ``(nu,)``.
        qvel: see qpos.
        warmstart: see qpos.
        ctrl: see qpos.
        posture: ``(A, 7)`` float64, joint positions the null space pulls towards, rad.
        fingers: ``(A, 2)`` the grippers' ramps.
    """

    qpos: Array32
    qvel: Array32
    warmstart: Array32
    ctrl: Array32
    posture: NDArray[np.float64]
    fingers: Array32


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What W worlds do for S = CHUNK_STEPS control steps; see `control.Orders` for the arrays, here in numpy.

    Attributes:
        lengths: ``(W,)`` int32.
        recorded: ``(W,)`` int32.
        positions: ``(S, W, A, 3)`` float32; rotations ``(S, W, A, 3, 3)``; grippers ``(S, W, A)``; noise
            ``(S, W, A, 6)``; actions ``(S, W, a)``.
        rotations: see positions.
        grippers: see positions.
        noise: see positions.
        actions: see positions.
    """

    lengths: NDArray[np.int32]
    recorded: NDArray[np.int32]
    positions: Array32
    rotations: Array32
    grippers: Array32
    noise: Array32
    actions: Array32


def idle(worlds: int, arms: int, action_dim: int) -> Plan:
    """Return a plan of CHUNK_STEPS control steps in which every world stands still, to be filled in."""
    steps = CHUNK_STEPS
    return Plan(
        lengths=np.zeros(worlds, np.int32),
        recorded=np.zeros(worlds, np.int32),
        positions=np.zeros((steps, worlds, arms, 3), np.float32),
        rotations=np.tile(np.eye(3, dtype=np.float32), (steps, worlds, arms, 1, 1)),
        grippers=np.zeros((steps, worlds, arms), np.float32),
        noise=np.zeros((steps, worlds, arms, 6), np.float32),
        actions=np.zeros((steps, worlds, action_dim), np.float32),
    )


@dataclass(frozen=True, kw_only=True)
class Run:
    """What happened.

    Attributes:
        qpos: ``(S, W, nq)`` after each step; rows a world did not complete are not meaningful. Likewise qvel.
        qvel: see qpos.
        actions: ``(S, W, a)`` as executed.
        completed: ``(W,)`` control steps completed.
        stopped: ``(W,)`` 0, or the bits that `reasons` puts in words: the step after the completed ones was lost.
    """

    qpos: Array32
    qvel: Array32
    actions: Array32
    completed: NDArray[np.int32]
    stopped: NDArray[np.int32]


@wp.func
def _unsound(row: wp.array(dtype=wp.float32)) -> bool:
    for i in range(row.shape[0]):  # noqa: SIM110 - kernels have no generators
        if not wp.abs(row[i]) < _LARGEST:  # also when it is not a number
            return True
    return False


@wp.func
def _copy(source: wp.array(dtype=wp.float32), target: wp.array(dtype=wp.float32)):
    for i in range(source.shape[0]):
        target[i] = source[i]


@wp.kernel
def _finish_step(
    clock: wp.array(dtype=wp.int32),
    lengths: wp.array(dtype=wp.int32),
    loss_mask: int,
    overflow: wp.array(dtype=wp.int32),
    qacc: wp.array2d(dtype=wp.float32),
    kept_qpos: wp.array2d(dtype=wp.float32),
    kept_qvel: wp.array2d(dtype=wp.float32),
    kept_warmstart: wp.array2d(dtype=wp.float32),
    kept_ctrl: wp.array2d(dtype=wp.float32),
    qpos: wp.array2d(dtype=wp.float32),
    qvel: wp.array2d(dtype=wp.float32),
    warmstart: wp.array2d(dtype=wp.float32),
    ctrl: wp.array2d(dtype=wp.float32),
    seen_qpos: wp.array3d(dtype=wp.float32),
    seen_qvel: wp.array3d(dtype=wp.float32),
    completed: wp.array(dtype=wp.int32),
    stopped: wp.array(dtype=wp.int32),
):
    """Keep the step of a world that takes part and is sound; put every other world back where it stood."""
    world = wp.tid()
    step = clock[0]
    why = overflow[world] & loss_mask
    overflow[world] = 0
    if _unsound(qpos[world]) or _unsound(qvel[world]) or _unsound(qacc[world]):
        why = why | DIVERGED
    takes_part = step < lengths[world]
    if takes_part and why == 0:
        completed[world] = step + 1
        _copy(qpos[world], seen_qpos[step, world])
        _copy(qvel[world], seen_qvel[step, world])
        _copy(qpos[world], kept_qpos[world])
        _copy(qvel[world], kept_qvel[world])
        _copy(warmstart[world], kept_warmstart[world])
        _copy(ctrl[world], kept_ctrl[world])
        return
    if takes_part:
        stopped[world] = why
        lengths[world] = step
    _copy(kept_qpos[world], qpos[world])
    _copy(kept_qvel[world], qvel[world])
    _copy(kept_warmstart[world], warmstart[world])
    _copy(kept_ctrl[world], ctrl[world])


@wp.kernel
def _tick(clock: wp.array(dtype=wp.int32)):
    clock[0] = clock[0] + 1


class Worlds:
    """W worlds of one model on one device, with a mirror of their states on the host.

    A control step is captured once as a graph and launched again for every step after.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        robot: Any,
        spec: RobotSpec,
        *,
        worlds: int,
        substeps: int,
        device: str,
        contacts_per_world: int = CONTACTS_PER_WORLD,
        constraints_per_world: int = CONSTRAINTS_PER_WORLD,
    ) -> None:
        """Copy a model to the device and make room for the worlds.

        Raises:
            BackendError: the scene uses what MuJoCo Warp or the control kernels do not know.
        """
        if model.na:
            raise BackendError(f"the scene has {model.na} actuator activations; the mjwarp backend keeps none")
        self.device, self.num_worlds, self._substeps = wp.get_device(device), worlds, substeps
        self._graph: Any = None
        self._first_substep = True
        with wp.ScopedDevice(self.device):
            self._arms = arms_of(model, robot, spec)
            try:
                self._model = mjw.put_model(model, batch_sizes={"body_pos": worlds, "body_quat": worlds})
                self._data = mjw.make_data(
                    model, nworld=worlds, nconmax=contacts_per_world, njmax=constraints_per_world
                )
            except (NotImplementedError, ValueError) as error:
                raise BackendError(f"MuJoCo Warp cannot simulate this scene: {error}") from error
            except RuntimeError as error:  # Warp's word for memory that is not there
                raise BackendError(f"{worlds} worlds do not fit on {self.device}; ask for fewer ({error})") from error
            # Sensors are read by nobody here; overflows are reported by us, not printed by a kernel.
            self._model.opt.disableflags |= int(mjw.DisableBit.SENSOR)
            self._model.opt.warn_overflow = 0
            self._model.callback.control = self._control
            self._orders = control.allocate_orders(CHUNK_STEPS, worlds, len(spec.eefs), spec.action_dim)
            d = self._data
            self._kept = [wp.zeros_like(x) for x in (d.qpos, d.qvel, d.qacc_warmstart, d.ctrl)]
            self._seen = [wp.zeros((CHUNK_STEPS, worlds, x.shape[1]), dtype=wp.float32) for x in (d.qpos, d.qvel)]
            self._completed = wp.zeros(worlds, dtype=wp.int32)
            self._stopped = wp.zeros(worlds, dtype=wp.int32)
        arms = len(spec.eefs)
        self._mirror = [np.array(x.numpy()) for x in (d.qpos, d.qvel, d.qacc_warmstart, d.ctrl)]
        self._posture = np.zeros((worlds, arms, int(JOINTS)))
        self._fingers = np.zeros((worlds, arms, 2), np.float32)
        self._bodies = [np.array(x.numpy()) for x in (self._model.body_pos, self._model.body_quat)]
        self._geoms = [np.array(x.numpy()) for x in (d.geom_xpos, d.geom_xmat)]
        self._stale = self._moved = True

    def load(self, world: int, state: WorldState) -> None:
        """Put a state into a world; it reaches the device before the next run."""
        for mirror, value in zip(self._mirror, (state.qpos, state.qvel, state.warmstart, state.ctrl), strict=True):
            mirror[world] = value
        self._posture[world], self._fingers[world] = state.posture, state.fingers
        self._stale = True

    def place_bodies(self, world: int, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Give one world the fixed bodies' poses of a model, whose kinematics `data` hold.

        MuJoCo Warp never moves the geoms of fixed bodies itself, so their world poses are copied too.
        """
        fixed = model.body_weldid[model.geom_bodyid] == 0
        rows = [model.body_pos, model.body_quat, data.geom_xpos, data.geom_xmat.reshape(-1, 3, 3)]
        for i, (mirror, value) in enumerate(zip([*self._bodies, *self._geoms], rows, strict=True)):
            wanted = (
                value.astype(np.float32)
                if i < 2
                else np.where(fixed.reshape(-1, *[1] * (value.ndim - 1)), value.astype(np.float32), mirror[world])
            )
            self._moved |= not np.array_equal(mirror[world], wanted)
            mirror[world] = wanted

    def state(self, world: int) -> WorldState:
        """Return what a world remembers now."""
        qpos, qvel, warmstart, ctrl = (mirror[world].copy() for mirror in self._mirror)
        return WorldState(
            qpos=qpos,
            qvel=qvel,
            warmstart=warmstart,
            ctrl=ctrl,
            posture=self._posture[world].copy(),
            fingers=self._fingers[world].copy(),
        )

    def run(self, plan: Plan) -> Run:
        """Run a plan in all worlds at once."""
        orders = self._orders
        with wp.ScopedDevice(self.device):
            self._upload()
            if self._graph is None:
                self._graph = self._capture()
            for name in ("lengths", "recorded", "positions", "rotations", "grippers", "noise", "actions"):
                getattr(orders, name).assign(getattr(plan, name))
            for array in (orders.clock, self._completed, self._stopped, self._data.overflow):
                array.zero_()
            for _ in range(int(plan.lengths.max())):
                wp.capture_launch(self._graph)
            run = Run(
                qpos=self._seen[0].numpy().copy(),
                qvel=self._seen[1].numpy().copy(),
                actions=orders.actions.numpy().copy(),
                completed=self._completed.numpy().copy(),
                stopped=self._stopped.numpy().copy(),
            )
            self._mirror = [x.numpy().copy() for x in self._kept]
            self._fingers = orders.fingers.numpy().copy()
        return run

    def close(self) -> None:
        """Release the device's memory."""
        self._graph = None
        del self._model, self._data, self._orders, self._kept, self._seen

    # --- on the device ----------------------------------------------------------------------------------------------

    def _control_step(self) -> None:
        for substep in range(self._substeps):
            self._first_substep = substep == 0
            mjw.step(self._model, self._data)
        d = self._data
        wp.launch(
            _finish_step,
            dim=self.num_worlds,
            inputs=[self._orders.clock, self._orders.lengths, _LOSS_MASK, d.overflow, d.qacc, *self._kept],
            outputs=[d.qpos, d.qvel, d.qacc_warmstart, d.ctrl, *self._seen, self._completed, self._stopped],
        )
        wp.launch(_tick, dim=1, inputs=[self._orders.clock])

    def _control(self, _model: Any, data: Any) -> None:
        """What MuJoCo Warp calls between positions and actuation, where robosuite computes its torques."""
        if self._first_substep:
            control.launch_aim(self._arms, self._orders, data)
        control.launch_drive(self._arms, self._orders, data)

    def _capture(self) -> Any:
        # Once for real first, with nobody taking part: kernels must be compiled and loaded before a capture begins.
        self._orders.lengths.zero_()
        self._control_step()
        with wp.ScopedCapture() as capture:
            self._control_step()
        return capture.graph

    def _upload(self) -> None:
        if self._stale:
            d = self._data
            for kept, live, mirror in zip(
                self._kept, (d.qpos, d.qvel, d.qacc_warmstart, d.ctrl), self._mirror, strict=True
            ):
                kept.assign(mirror)
                live.assign(mirror)
            self._orders.posture.assign(self._posture)
            self._orders.fingers.assign(self._fingers)
            self._stale = False
        if self._moved:
            m, d = self._model, self._data
            for array, mirror in zip(
                (m.body_pos, m.body_quat, d.geom_xpos, d.geom_xmat), [*self._bodies, *self._geoms], strict=True
            ):
                array.assign(mirror)
            self._moved = False
