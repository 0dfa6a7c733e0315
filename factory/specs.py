"""What can be asked for: robots, scenes, resets, subtasks, tasks and the settings of one generation.

All are frozen values that refuse to exist wrongly. Everything that belongs to an arm is keyed by end effector
("right", "left") from the start; one arm is the case of one key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from factory.constraints import SCHEMES, Constraint, check_constraints
from factory.errors import SpecError, unknown_name
from factory.parts import BodySpec, CameraSpec, TableSpec, check_parts
from factory.scene import Predicate

Extra = Literal["segmentation", "depth"]
EXTRAS: tuple[Extra, ...] = ("segmentation", "depth")
SelectionStrategy = Literal["random", "nearest_object", "nearest_eef"]
STRATEGIES: tuple[SelectionStrategy, ...] = ("random", "nearest_object", "nearest_eef")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """How a source segment is chosen among the demos.

    Attributes:
        strategy: "random"; "nearest_object" ranks by the distance of the reference object's pose at the start of the
            source segment to its pose now; "nearest_eef" ranks by the distance of the transformed first measured
            hand pose of the segment to the hand's pose now.
        top_k: draw uniformly among this many nearest.
        position_weight: cost per metre.
        rotation_weight: cost per radian of the geodesic angle.
    """

    strategy: SelectionStrategy = "nearest_object"
    top_k: int = 3
    position_weight: float = 1.0
    rotation_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise SpecError(unknown_name("selection strategy", self.strategy, STRATEGIES))
        if self.top_k < 1:
            raise SpecError(f"Selection.top_k is {self.top_k}; it must be at least 1")
        if self.position_weight < 0 or self.rotation_weight < 0:
            raise SpecError("Selection weights must not be negative")


@dataclass(frozen=True, kw_only=True)
class SubtaskSpec:
    """One object-centric piece of one arm's work.

    Attributes:
        name: a short verb, "grasp" or "insert".
        object_ref: the object whose frame carries the motion; None keeps the motion where it was recorded.
        end_signal: name of the task signal whose first rise ends the subtask; None for the last one only.
        grasps: the object this subtask takes hold of, if any.
        carries: the object the hand holds when this subtask begins, if any.
        selection: how the source segment is chosen.
        interpolation_steps: control steps of straight bridge to the segment's first pose.
        fixed_steps: control steps that wait at the segment's first pose after the bridge.
        noise_normalised: standard deviation of the action noise in normalised action units (MimicGen's unit).
        noise_m: the same as metres on the three position dimensions; only when noise_normalised is 0.
        noise_rad: the same as radians on the three rotation dimensions; only when noise_normalised is 0.
        noise_on_bridge: whether the bridge gets noise too.
        end_jitter_steps: inclusive range of control steps by which the source segment's end is moved, drawn per
            attempt and demo; the next segment starts where this one ends. (0, 0) for the last.
    """

    name: str
    object_ref: str | None
    end_signal: str | None = None
    grasps: str | None = None
    carries: str | None = None
    selection: Selection = field(default_factory=Selection)
    interpolation_steps: int = 5
    fixed_steps: int = 0
    noise_normalised: float = 0.05
    noise_m: float = 0.0
    noise_rad: float = 0.0
    noise_on_bridge: bool = False
    end_jitter_steps: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        low, high = self.end_jitter_steps
        if low > high:
            raise SpecError(f"subtask {self.name!r}: end_jitter_steps {self.end_jitter_steps} has its ends swapped")
        if self.end_signal is None and (low, high) != (0, 0):
            raise SpecError(
                f"subtask {self.name!r} is the last: its end is the demo's end, end_jitter_steps must be (0, 0)"
            )
        if self.interpolation_steps < 0 or self.fixed_steps < 0:
            raise SpecError(f"subtask {self.name!r}: steps must not be negative")
        if min(self.noise_normalised, self.noise_m, self.noise_rad) < 0:
            raise SpecError(f"subtask {self.name!r}: noise must not be negative")
        if self.noise_normalised and (self.noise_m or self.noise_rad):
            raise SpecError(f"subtask {self.name!r}: give noise_normalised, or noise_m and noise_rad, not both")
        if self.object_ref is None and self.selection.strategy == "nearest_object":
            raise SpecError(f"subtask {self.name!r} has no object_ref, so it cannot select by nearest_object")


@dataclass(frozen=True, kw_only=True)
class EefSpec:
    """One end effector of a robot.

    Attributes:
        frame: the simulator's name of the grip frame, "site:..." or "body:...".
        base_frame: frame its commands refer to, in the same notation.
        arm_action: [start, stop) of the six pose dimensions in the action vector.
        gripper_action: [start, stop) of the gripper dimensions.
        position_scale_m: metres per unit of normalised action.
        rotation_scale_rad: radians per unit of normalised action.
        arm_joints: joint names in the simulator, in order.
        gripper_joints: likewise for the fingers.
        gripper_closed: gripper command that closes; the opposite sign opens.
        command_open: a hand's whole command, a number for each gripper dimension, that opens it, where that is not
            -gripper_closed for each (a thumb that stays opposed); likewise command_closed.
        command_closed: see command_open.
        digits: what each number of a hand's command moves, by names that hands share; none where there is one number.
        joints_open: positions of `gripper_joints` (rad or m) when open; likewise joints_closed.
        joints_closed: see joints_open.
        fingers: contact group name -> geoms ("geom:...") of each opposing finger; a grasp touches all of them.
        touch: further contact groups of the hand, name -> "geom:..." and "body:...": the palm, the whole hand.
        grasp_m: where the middle of a held object is, in the grip frame; with `grasp_quat_wxyz` the grasp frame: z
            points where the hand reaches, x from one finger to the finger, or fingers, that oppose it.
        grasp_quat_wxyz: see grasp_m.
        opening_m: clear width between the opposing fingers of the open hand.
    """

    frame: str
    base_frame: str
    arm_action: tuple[int, int]
    gripper_action: tuple[int, int]
    position_scale_m: float
    rotation_scale_rad: float
    arm_joints: tuple[str, ...]
    gripper_joints: tuple[str, ...]
    joints_open: tuple[float, ...]
    joints_closed: tuple[float, ...]
    gripper_closed: float = 1.0
    command_open: tuple[float, ...] = ()
    command_closed: tuple[float, ...] = ()
    digits: tuple[str, ...] = ()
    fingers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    touch: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    grasp_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    grasp_quat_wxyz: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    opening_m: float = 0.08

    def __post_init__(self) -> None:
        if self.arm_action[1] - self.arm_action[0] != 6:
            raise SpecError(f"arm_action {self.arm_action} must span six pose dimensions")
        width = self.gripper_action[1] - self.gripper_action[0]
        for name in ("command_open", "command_closed", "digits"):
            if len(getattr(self, name)) not in (0, width):
                raise SpecError(f"{name} {getattr(self, name)} needs {width} numbers, as gripper_action spans, or none")
        if not len(self.joints_open) == len(self.joints_closed) == len(self.gripper_joints):
            raise SpecError(
                f"joints_open {self.joints_open} and joints_closed {self.joints_closed} need one number for each of "
                f"{self.gripper_joints}"
            )
        if self.position_scale_m <= 0 or self.rotation_scale_rad <= 0:
            raise SpecError("position_scale_m and rotation_scale_rad must be positive")

    @property
    def opens(self) -> tuple[float, ...]:
        """The whole gripper command that opens."""
        return self.command_open or (-self.gripper_closed,) * (self.gripper_action[1] - self.gripper_action[0])

    @property
    def closes(self) -> tuple[float, ...]:
        """The whole gripper command that closes."""
        return self.command_closed or (self.gripper_closed,) * (self.gripper_action[1] - self.gripper_action[0])

    @property
    def finger_unit(self) -> str:
        """The unit of its `gripper_joints`: jaws that are told one number slide, fingers that are told several bend."""
        return "m" if self.gripper_action[1] - self.gripper_action[0] == 1 else "rad"


@dataclass(frozen=True, kw_only=True)
class MountSpec:
    """One of the simulator's robots, and where it stands in the project's own scenes.

    Attributes:
        model: the simulator's name of the robot model.
        position_m: its base in the world; None puts it where the simulator puts such a robot at a table.
        yaw_rad: its turn about the vertical; 0 faces along x. Only with a position.
        controller: the simulator's name of the controllers it is driven by; "" takes the model's own.
        gripper: the simulator's name of the gripper on each of its arms; "" takes the model's own.
    """

    model: str
    position_m: tuple[float, float, float] | None = None
    yaw_rad: float = 0.0
    controller: str = ""
    gripper: str = ""


@dataclass(frozen=True, kw_only=True)
class RobotSpec:
    """A robot, or several that work together, and how it is commanded.

    Attributes:
        name: the name users see; without `mounts` also the simulator's name of the robot model.
        lerobot_type: `robot_type` written into datasets.
        eefs: end-effector name -> its specification.
        action_dim: width of the whole action vector.
        control_hz: rate of actions; also the frame rate of datasets.
        mounts: the simulator's robots, in the order of their actions; none is one robot `name` at a table.
        wrist_cameras: the simulator's names of cameras on its wrists that policies usually see.
    """

    name: str
    lerobot_type: str
    eefs: Mapping[str, EefSpec]
    action_dim: int
    control_hz: int = 20
    mounts: tuple[MountSpec, ...] = ()
    wrist_cameras: tuple[str, ...] = ("robot0_eye_in_hand",)

    def __post_init__(self) -> None:
        taken: list[int] = []
        for eef in self.eefs.values():
            taken += [*range(*eef.arm_action), *range(*eef.gripper_action)]
        if not self.eefs or sorted(taken) != list(range(self.action_dim)):
            raise SpecError(
                f"robot {self.name!r}: end effectors must tile its {self.action_dim} action dimensions once"
            )


@dataclass(frozen=True, kw_only=True)
class ObjectSpec:
    """An object of the scene as the simulator knows it.

    Attributes:
        frame: what its pose is read from, "body:NAME" or "site:NAME".
        body: the body that is placed at reset: by its free joint, or by editing the model when it has none.
        contact: what counts as touching it, a tuple of "body:NAME" (with everything below) and "geom:NAME".
        yaw_symmetry: it looks the same after this many equal turns about its own z axis make a full one: 4 for a cube
            that stands on a face, 1 for no symmetry, 36 for a cylinder (10 degree steps).
    """

    frame: str
    body: str
    contact: tuple[str, ...] = ()
    yaw_symmetry: int = 1

    @classmethod
    def of_part(cls, name: str, *, site: str = "", yaw_symmetry: int = 1) -> ObjectSpec:
        """Return the object that is a scene's box or part `name`, its frame the body's or one of its sites'."""
        body = f"{name}_main"
        frame = f"site:{name}_{site}" if site else f"body:{body}"
        return cls(frame=frame, body=body, contact=(f"body:{body}",), yaw_symmetry=yaw_symmetry)


@dataclass(frozen=True, kw_only=True)
class BoxSpec:
    """A free box on the table, for scenes the project builds itself: half sizes in metres, colour 0..1."""

    half_size_m: tuple[float, float, float]
    rgba: tuple[float, float, float, float]
    material: str = ""
    density: float = 1000.0


@dataclass(frozen=True, kw_only=True)
class SceneSpec:
    """A scene as data.

    Attributes:
        base: "table" for a table with `boxes` and `parts`, a robosuite environment's name, or "package.module:Class" of
            one.
        options: keyword arguments of the environment.
        boxes: free boxes by name, for base "table".
        parts: what else lies or stands there, by name, see `factory.parts`; in another base than "table" only what is
            fixed, so that states recorded without it are states of the scene with it.
        table: the table itself, for base "table".
        cameras: further cameras by name, for base "table".
        objects: objects that predicates and subtasks may name.
        joints: joint group name -> joint names, for scene joints (a hinge, a latch).
        contacts: pairs of contact groups that predicates ask about: object names, finger groups of the robot, names in
            `contact_groups`.
        contact_groups: further groups, name -> tuple of "body:NAME" (with everything below) and "geom:NAME".
        clearances_mm: what has to fit, for people: "nut in peg" -> 4.0.
        hidden_bodies: bodies moved far below the floor because the task has no use for them.
    """

    base: str
    options: Mapping[str, Any] = field(default_factory=dict)
    boxes: Mapping[str, BoxSpec] = field(default_factory=dict)
    parts: Mapping[str, BodySpec] = field(default_factory=dict)
    table: TableSpec = field(default_factory=TableSpec)
    cameras: Mapping[str, CameraSpec] = field(default_factory=dict)
    objects: Mapping[str, ObjectSpec]
    joints: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    contacts: tuple[tuple[str, str], ...] = ()
    contact_groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    clearances_mm: Mapping[str, float] = field(default_factory=dict)
    hidden_bodies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        loose = [name for name, part in self.parts.items() if part.joint != "fixed"]
        if self.base != "table" and (self.boxes or loose or self.cameras or self.table != TableSpec()):
            raise SpecError(
                f"boxes, parts that move ({', '.join(loose) or 'none here'}), table and cameras belong to the base "
                f"'table'; this scene's is {self.base!r}"
            )
        check_parts(self.parts, self.boxes)
        for group in self.contact_groups:
            if group in self.objects:
                raise SpecError(f"the name {group!r} belongs to an object and to a contact group")


@dataclass(frozen=True, kw_only=True)
class PlacementSpec:
    """Where one object may start, uniformly.

    Attributes:
        object: the object's name.
        x_m: range about the reference point, metres; likewise y_m.
        y_m: see x_m.
        z_m: range of the height of the object's frame above the reference point, metres.
        yaw_rad: range of the turn about the vertical, applied after `quat_wxyz`.
        reference_m: the point the ranges refer to, world frame, or the frame of `on`.
        quat_wxyz: orientation at yaw 0.
        radius_m: horizontal radius used to keep objects apart.
        on: an object placed earlier, that this one lies on or in: the ranges, the turn and the reference point are
            then in its frame. "" is the world.
    """

    object: str
    x_m: tuple[float, float]
    y_m: tuple[float, float]
    z_m: tuple[float, float]
    yaw_rad: tuple[float, float] = (0.0, 2.0 * math.pi)
    reference_m: tuple[float, float, float]
    quat_wxyz: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    radius_m: float = 0.0
    on: str = ""

    def __post_init__(self) -> None:
        for name in ("x_m", "y_m", "z_m", "yaw_rad"):
            low, high = getattr(self, name)
            if not low <= high:
                raise SpecError(f"placement of {self.object!r}: {name} {low, high} has its ends swapped")


@dataclass(frozen=True, kw_only=True)
class ResetSpec:
    """The distribution of starts of one variant.

    Attributes:
        placements: one per object that moves, placed in this order.
        min_gap_m: horizontal gap kept between the radii of any two placed objects.
        joint_noise_rad: standard deviation of the arm's start posture.
    """

    placements: tuple[PlacementSpec, ...]
    min_gap_m: float = 0.0
    joint_noise_rad: float = 0.02

    def __post_init__(self) -> None:
        placed: list[str] = []
        for spec in self.placements:
            if spec.on and spec.on not in placed:
                known = unknown_name("object placed before", spec.on, placed)
                raise SpecError(f"placement of {spec.object!r} on {known}")
            placed.append(spec.object)


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """A task: its scene, starts, subtasks per arm, and what counts as done.

    Attributes:
        name: the name users type.
        instruction: what the robot is told, one English sentence.
        paraphrases: other ways to say it.
        robot: who does it.
        recorded_as: the task as its demonstrations show it, where another robot does it there; see `transfer`.
        scene: where.
        resets: variant name ("D0", "D1", ...) -> distribution of starts.
        subtasks: end-effector name -> its subtasks in order.
        constraints: what holds between the arms: `Coordination` and `Ordering`, see `constraints`.
        signals: name -> predicate that rises when a subtask is done.
        held: object name -> predicate that is true while a hand holds it; "left:tray" where it matters which one does,
            because several take the same object.
        success: predicate of the finished task.
        needs: object name -> predicate of that object, and of what cannot move, that is true whenever success is.
            Attempts that have left such an object behind are ended early, see `ending`; none, and none are.
        settle_steps: control steps of holding still before an attempt starts (not part of the episode).
        success_hold_steps: control steps at the end during which success has to stay true.
        aliases: name used in other people's files -> our name, for objects and signals.
        environments: names of environments in other people's files that are this task.
        description: one line for lists.
    """

    name: str
    instruction: str
    paraphrases: tuple[str, ...] = ()
    robot: RobotSpec
    scene: SceneSpec
    resets: Mapping[str, ResetSpec]
    subtasks: Mapping[str, tuple[SubtaskSpec, ...]]
    signals: Mapping[str, Predicate]
    held: Mapping[str, Predicate] = field(default_factory=dict)
    success: Predicate
    needs: Mapping[str, Predicate] = field(default_factory=dict)
    settle_steps: int = 10
    success_hold_steps: int = 10
    aliases: Mapping[str, str] = field(default_factory=dict)
    environments: tuple[str, ...] = ()
    description: str = ""
    constraints: tuple[Constraint, ...] = ()
    recorded_as: TaskSpec | None = None

    def __post_init__(self) -> None:
        if set(self.subtasks) != set(self.robot.eefs):
            raise SpecError(
                f"task {self.name!r} has subtasks for {sorted(self.subtasks)} but robot {self.robot.name!r} has end "
                f"effectors {sorted(self.robot.eefs)}"
            )
        for eef, chain in self.subtasks.items():
            if not chain:
                raise SpecError(f"task {self.name!r}: end effector {eef!r} has no subtasks")
            for i, sub in enumerate(chain):
                self._check_subtask(eef, sub, last=i == len(chain) - 1)
        check_constraints(f"task {self.name!r}", self.subtasks, self.scene.objects, self.constraints)
        for key in self.held:
            eef, _, name = key.rpartition(":")
            if name not in self.scene.objects or (eef and eef not in self.subtasks):
                known = (*self.scene.objects, *(f"{e}:{o}" for e in self.subtasks for o in self.scene.objects))
                raise SpecError(f"task {self.name!r} held: " + unknown_name("object", key, known))
        for name in self.needs:
            if name not in self.scene.objects:
                raise SpecError(f"task {self.name!r} needs: " + unknown_name("object", name, self.scene.objects))
        for variant, reset in self.resets.items():
            for placement in reset.placements:
                if placement.object not in self.scene.objects:
                    raise SpecError(
                        f"task {self.name!r} {variant}: " + unknown_name("object", placement.object, self.scene.objects)
                    )

    def _check_subtask(self, eef: str, sub: SubtaskSpec, *, last: bool) -> None:
        where = f"task {self.name!r}, {eef}, subtask {sub.name!r}: "
        for role, name in (("object_ref", sub.object_ref), ("grasps", sub.grasps), ("carries", sub.carries)):
            if name is not None and name not in self.scene.objects:
                raise SpecError(f"{where}{role}: " + unknown_name("object", name, self.scene.objects))
        if (sub.end_signal is None) != last:
            raise SpecError(f"{where}every subtask but the last needs an end_signal, and the last must have none")
        if sub.end_signal is not None and sub.end_signal not in self.signals:
            raise SpecError(where + unknown_name("signal", sub.end_signal, self.signals))

    @property
    def views(self) -> tuple[str, ...]:
        """The cameras that show the task, unless others are asked for: the scene's own and those on the wrists."""
        return (*(self.scene.cameras or ("agentview",)), *self.robot.wrist_cameras)

    def held_by(self, eef: str, name: str) -> Predicate | None:
        """Return what says that an arm holds an object, or where the task does not tell arms apart, that any does."""
        return self.held.get(f"{eef}:{name}", self.held.get(name))

    def reset(self, variant: str) -> ResetSpec:
        """Return the variant's distribution of starts, or say which exist."""
        if variant not in self.resets:
            raise SpecError(f"task {self.name!r}: " + unknown_name("variant", variant, self.resets))
        return self.resets[variant]


@dataclass(frozen=True, kw_only=True)
class GenerationSpec:
    """The settings of one generation; None means "as the task says".

    Attributes:
        variant: which reset distribution.
        seed: the job's seed; an attempt's randomness depends on it and on the attempt's index alone.
        select_per: "episode" chooses one source demo for all arms, at the first subtask, and stays with it; "arm" one
            for each; "subtask" chooses anew at every subtask of every arm. Arms that act as one share theirs.
        selection: replaces every subtask's selection.
        end_jitter_steps: replaces every non-last subtask's range.
        noise_normalised: replaces every subtask's action noise.
        interpolation_steps: replaces every subtask's bridge length.
        fixed_steps: replaces every subtask's wait.
        transform_first_pose: also bridge later subtasks to the transformed first *measured* hand pose (the first
            subtask always does) before following the transformed targets.
        paced_bridge: lengthen a bridge beyond its `interpolation_steps` where the hand would have to move faster than
            `transit.PACE_M` and `PACE_RAD` per control step to follow it.
        bridge_from: "last_target" starts later bridges at the previous commanded pose, "current" at the measured one.
        keep: "hand" carries the hand's pose relative to the reference object, as MimicGen does; "object" also turns and
            shifts the hand so that the *carried* object moves as it did in the source, whatever the grasp was like.
        use_symmetry: treat turns of an object that it looks the same after as the same, and carry with the smallest.
        untransformed: replay the chosen source as it was recorded; the control that shows what carrying adds.
        coordination: "task" as the task says; "off" lets every arm go alone; a scheme replaces the task's.
        coordination_noise: factor on the noise of shared transforms.
        ordering: "task" as the task says; "off" lets no subtask wait for another arm's.
        transit: "straight" bridges as the crow flies; "planned" goes around what would be hit on the way, and leaves
            out of a segment's approach what would hit something; see `transit`.
        segmentation: "stored" prefers signals in the file, "predicates" evaluates the task's, "automatic" ignores both.
        paraphrases: word each episode's instruction in one of the task's ways, drawn with its selection stream.
        max_steps: an attempt that would run longer is cut and fails with "timeout".
        early_ending: end an attempt as soon as it is proven that it cannot succeed; which attempts succeed, and every
            byte of them, are the same without.
    """

    variant: str = "D0"
    seed: int = 0
    select_per: Literal["episode", "arm", "subtask"] = "episode"
    selection: Selection | None = None
    end_jitter_steps: tuple[int, int] | None = None
    noise_normalised: float | None = None
    interpolation_steps: int | None = None
    fixed_steps: int | None = None
    transform_first_pose: bool = False
    paced_bridge: bool = False
    bridge_from: Literal["last_target", "current"] = "last_target"
    keep: Literal["hand", "object"] = "hand"
    use_symmetry: bool = False
    untransformed: bool = False
    coordination: Literal["task", "off", "transform", "translate", "replay"] = "task"
    coordination_noise: float = 1.0
    ordering: Literal["task", "off"] = "task"
    transit: Literal["straight", "planned"] = "straight"
    segmentation: Literal["stored", "predicates", "automatic"] = "stored"
    paraphrases: bool = False
    max_steps: int = 3000
    early_ending: bool = True

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise SpecError(f"seed is {self.seed}; it must not be negative")
        if self.max_steps < 1:
            raise SpecError(f"max_steps is {self.max_steps}; it must be positive")
        if self.noise_normalised is not None and self.noise_normalised < 0:
            raise SpecError(f"noise_normalised is {self.noise_normalised}; it must not be negative")
        for setting, known in (
            ("select_per", ("episode", "arm", "subtask")),
            ("coordination", ("task", "off", *SCHEMES)),
            ("ordering", ("task", "off")),
            ("transit", ("straight", "planned")),
        ):
            if getattr(self, setting) not in known:
                raise SpecError(f"{setting}: " + unknown_name("setting", getattr(self, setting), known))
        if not (math.isfinite(self.coordination_noise) and self.coordination_noise >= 0):
            raise SpecError(f"coordination_noise is {self.coordination_noise}; it must not be negative")


@dataclass(frozen=True, kw_only=True)
class RenderSpec:
    """How episodes are turned into pictures.

    Attributes:
        cameras: camera names of the scene.
        width: pixels, even; likewise height.
        height: see width.
        preset: "faithful" is pixel-equal to robosuite's own image; "fast" drops shadows, reflections, multisampling,
            and draws heavy untextured meshes (most of the robot's) with fewer triangles: no corner or middle of one is
            farther than 3.5 mm from the other surface.
        visual_seed: None keeps the scene's looks; a number draws lights, colours and textures from it per episode.
        camera_jitter_m: standard deviation of the cameras' displacement, used with a visual seed.
        camera_jitter_rad: standard deviation of their turn.
        codec: "h264" or "av1".
        extras: what is kept of every picture beside its colours: "segmentation", "depth"; see `extras`.
        every: rows from one picture drawn to the next; rows between repeat it. More than 1 is for those who look at
            every so many rows anyway, as video models do: drawing is most of what their data costs.
    """

    cameras: tuple[str, ...] = ("agentview", "robot0_eye_in_hand")
    width: int = 256
    height: int = 256
    preset: Literal["faithful", "fast"] = "faithful"
    visual_seed: int | None = None
    camera_jitter_m: float = 0.0
    camera_jitter_rad: float = 0.0
    codec: Literal["h264", "av1"] = "h264"
    extras: tuple[Extra, ...] = ()
    every: int = 1

    def __post_init__(self) -> None:
        if self.every < 1:
            raise SpecError(f"a picture is drawn every {self.every} rows; expected 1 or more")
        if self.width % 2 or self.height % 2 or min(self.width, self.height) < 16:
            raise SpecError(f"image size {self.width}x{self.height}: both must be even and at least 16 (yuv420p video)")
        if len(set(self.cameras)) != len(self.cameras):
            raise SpecError(f"cameras {self.cameras} name one twice")
        if self.preset not in ("faithful", "fast"):
            raise SpecError(unknown_name("render preset", self.preset, ("faithful", "fast")))
        if self.codec not in ("h264", "av1"):
            raise SpecError(unknown_name("codec", self.codec, ("h264", "av1")))
        for extra in self.extras:
            if extra not in EXTRAS:
                raise SpecError(unknown_name("extra", extra, EXTRAS))
        if len(set(self.extras)) != len(self.extras):
            raise SpecError(f"extras {self.extras} name one twice")
        if self.visual_seed is None and (self.camera_jitter_m or self.camera_jitter_rad):
            raise SpecError("camera jitter needs a visual seed")
