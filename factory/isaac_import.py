"""Reads how others told Isaac Lab Mimic, or AutoData, to generate, and says what of it this project does not have.

Two forms are known by their keys: a dump of Isaac Lab's `MimicEnvCfg` ("subtask_configs", "datagen_config",
"task_constraint_configs"), and a task file of AutoData ("subtasks", "generation_policy", "constraints"). Both say the
same in almost the same words. Nothing is executed; what has no counterpart is a sentence in the report.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from factory.constraints import Constraint, Coordination, Ordering
from factory.errors import SpecError, unknown_name
from factory.specs import GenerationSpec, Selection, SelectionStrategy, SubtaskSpec

_STRATEGIES: Mapping[str, SelectionStrategy] = {
    "random": "random",
    "nearest_neighbor_object": "nearest_object",
    "nearest_neighbor_robot_distance": "nearest_eef",
}
_KWARGS = {"nn_k": "top_k", "pos_weight": "position_weight", "rot_weight": "rotation_weight"}
_KINDS = ("SEQUENTIAL", "COORDINATION")
_SCHEMES = ("REPLAY", "TRANSFORM", "TRANSLATE")
"""In the order of their numbers, as the enumerations of Isaac Lab count them."""

_SUBTASK_KEYS = {
    "object_ref", "subtask_term_signal", "selection_strategy", "selection_strategy_kwargs", "subtask_term_offset_range",
    "action_noise", "num_interpolation_steps", "num_fixed_steps", "apply_noise_during_interpolation", "description",
    "next_subtask_description", "first_subtask_start_offset_range", "subtask_start_offset_range",
}  # fmt: skip
_CONSTRAINT_KEYS = {
    "eef_subtask_constraint_tuple", "constraint_type", "sequential_min_time_diff", "coordination_scheme",
    "coordination_scheme_pos_noise_scale", "coordination_scheme_rot_noise_scale", "coordination_synchronize_start",
}  # fmt: skip
_POLICY_KEYS = {
    "name", "seed", "num_trials", "guarantee", "guarantee_success", "keep_failed", "max_num_failures",
    "source_dataset_path", "path", "generation_path", "task_name", "use_skillgen", "use_navigation_controller",
    "select_src_per_subtask", "select_src_per_arm", "transform_first_robot_pose", "interpolate_from_last_target_pose",
    "relative", "joint_pos", "num_demo_to_render", "num_fail_demo_to_render",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What a description says, in this project's words.

    Attributes:
        name: what it calls itself.
        subtasks: end effector, by its own name -> its subtasks.
        constraints: what holds between arms.
        generation: the settings of a generation.
        job: what belongs to a job: "episodes" or "attempts", "keep_failed".
        remarks: one sentence for everything that has no counterpart, or another meaning here.
    """

    name: str
    subtasks: Mapping[str, tuple[SubtaskSpec, ...]]
    constraints: tuple[Constraint, ...]
    generation: GenerationSpec
    job: Mapping[str, int | bool]
    remarks: tuple[str, ...]


def import_spec(description: Mapping[str, Any]) -> Imported:
    """Return what a description says, and what of it cannot be kept.

    Raises:
        SpecError: it is neither of the known forms, or a value makes no sense.
    """
    chains = description.get("subtask_configs", description.get("subtasks"))
    if not isinstance(chains, Mapping) or not chains:
        raise SpecError(
            f"the description has the keys {sorted(description)}; expected subtask_configs (Isaac Lab Mimic) or "
            "subtasks (AutoData), a list of subtasks for each end effector"
        )
    remarks: list[str] = []
    subtasks = {str(eef): _chain(str(eef), chain, remarks) for eef, chain in chains.items()}
    policy = _policy(description.get("datagen_config") or description.get("generation_policy") or {})
    constraints = description.get("task_constraint_configs") or description.get("constraints") or ()
    _remark_unknown("generation", policy, _POLICY_KEYS, remarks)
    known = {"subtask_configs", "subtasks", "datagen_config", "generation_policy", "task_constraint_configs",
             "constraints", "name", "description", "algo"}  # fmt: skip
    _remark_unknown("the description", description, known, remarks)
    if subtasks:
        remarks.append(
            "theirs do not say what a subtask takes hold of or carries: add grasps= and carries= where it does, then "
            "failures get their names and carried objects keep their motion"
        )
    return Imported(
        name=str(description.get("name") or policy.get("name") or ""),
        subtasks=subtasks,
        constraints=tuple(_constraint(i, c, subtasks, remarks) for i, c in enumerate(constraints)),
        generation=_generation(policy, remarks),
        job=_job(policy),
        remarks=tuple(remarks),
    )


def _policy(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings under AutoData's names, which are Isaac Lab's without the prefix."""
    return {str(key).removeprefix("generation_"): value for key, value in stored.items()}


def _chain(eef: str, stored: Any, remarks: list[str]) -> tuple[SubtaskSpec, ...]:
    if not isinstance(stored, Sequence) or isinstance(stored, str) or not stored:
        raise SpecError(f"subtasks of {eef!r}: found {stored!r}; a list with at least one is expected")
    return tuple(_subtask(eef, i, one, i == len(stored) - 1, remarks) for i, one in enumerate(stored))


def _subtask(eef: str, index: int, stored: Mapping[str, Any], last: bool, remarks: list[str]) -> SubtaskSpec:
    where = f"{eef}, subtask {index}"
    _remark_unknown(where, stored, _SUBTASK_KEYS, remarks)
    signal = stored.get("subtask_term_signal")
    strategy = str(stored.get("selection_strategy", "random"))
    if strategy not in _STRATEGIES:
        raise SpecError(f"{where}: " + unknown_name("selection_strategy", strategy, _STRATEGIES))
    kwargs = stored.get("selection_strategy_kwargs") or {}
    remarks += [
        f"{where}: selection_strategy_kwargs.{key} = {value!r} has no counterpart"
        for key, value in kwargs.items()
        if key not in _KWARGS
    ]
    remarks += [
        f"{where}: {key} = {list(stored[key])} has no counterpart; segments tile the demonstration"
        for key in ("first_subtask_start_offset_range", "subtask_start_offset_range")
        if any(stored.get(key) or ())
    ]
    if last and signal is not None:
        remarks.append(f"{where}: subtask_term_signal = {signal!r} of the last subtask is not used, here or there")
    low, high = stored.get("subtask_term_offset_range") or (0, 0)
    title = str(stored.get("description") or "").strip().rstrip(".")
    return SubtaskSpec(
        name=title.lower() or ("finish" if last else f"until {signal}"),
        object_ref=stored.get("object_ref"),
        end_signal=None if last else signal,
        selection=Selection(
            strategy=_STRATEGIES[strategy], **{_KWARGS[k]: v for k, v in kwargs.items() if k in _KWARGS}
        ),
        interpolation_steps=int(stored.get("num_interpolation_steps", 5)),
        fixed_steps=int(stored.get("num_fixed_steps", 0)),
        noise_normalised=float(stored.get("action_noise", 0.03)),
        noise_on_bridge=bool(stored.get("apply_noise_during_interpolation", False)),
        end_jitter_steps=(int(low), int(high)),
    )


def _constraint(
    index: int, stored: Mapping[str, Any], subtasks: Mapping[str, tuple[SubtaskSpec, ...]], remarks: list[str]
) -> Constraint:
    where = f"constraint {index}"
    _remark_unknown(where, stored, _CONSTRAINT_KEYS, remarks)
    pairs = [_named(where, pair, subtasks) for pair in stored.get("eef_subtask_constraint_tuple", ())]
    if len(pairs) != 2:
        raise SpecError(f"{where}: eef_subtask_constraint_tuple has {len(pairs)} entries; two are expected")
    if _member(where, "constraint_type", stored.get("constraint_type"), _KINDS) == "SEQUENTIAL":
        left = int(stored.get("sequential_min_time_diff", -1))
        if left >= 0:
            remarks.append(
                f"{where}: sequential_min_time_diff = {left} lets the later subtask run until {left} steps are left; "
                "here it begins when the first is over"
            )
        return Ordering(first=pairs[0], then=pairs[1])
    shift = float(stored.get("coordination_scheme_pos_noise_scale", 0.0))
    turn = float(stored.get("coordination_scheme_rot_noise_scale", 0.0))
    if shift or turn:
        remarks.append(
            f"{where}: noise of {shift} m and {turn} rad, uniform to both sides there, is normal with the same "
            "standard deviation here"
        )
    return Coordination(
        subtasks=dict(pairs),
        scheme=_member(where, "coordination_scheme", stored.get("coordination_scheme", 0), _SCHEMES).lower(),  # type: ignore[arg-type]
        synchronise_start=bool(stored.get("coordination_synchronize_start", False)),
        noise_m=shift / math.sqrt(3.0),
        noise_rad=turn / math.sqrt(3.0),
    )


def _named(where: str, pair: Any, subtasks: Mapping[str, tuple[SubtaskSpec, ...]]) -> tuple[str, str]:
    eef, index = pair
    if eef not in subtasks:
        raise SpecError(f"{where}: " + unknown_name("end effector", str(eef), subtasks))
    if not 0 <= int(index) < len(subtasks[eef]):
        raise SpecError(f"{where}: {eef} has {len(subtasks[eef])} subtasks, there is no number {index}")
    return eef, subtasks[eef][int(index)].name


def _member(where: str, key: str, value: Any, members: tuple[str, ...]) -> str:
    """Return the name of an enumeration's member, given as its number, its name, or as Python prints it."""
    name = members[value] if isinstance(value, int) and 0 <= value < len(members) else str(value).rpartition(".")[2]
    if name.upper() not in members:
        raise SpecError(f"{where}: " + unknown_name(key, str(value), members))
    return name.upper()


def _generation(policy: Mapping[str, Any], remarks: list[str]) -> GenerationSpec:
    unknown = [key for key in ("use_skillgen", "use_navigation_controller") if policy.get(key)]
    remarks += [f"generation: {key} has no counterpart" for key in unknown]
    if policy.get("max_num_failures") is not None:
        remarks.append(
            f"generation: max_num_failures = {policy['max_num_failures']} counts failures; a job's max_attempts counts "
            "attempts"
        )
    per = (
        "subtask" if policy.get("select_src_per_subtask") else "arm" if policy.get("select_src_per_arm") else "episode"
    )
    return GenerationSpec(
        seed=int(policy.get("seed", 1)),
        select_per=per,
        transform_first_pose=bool(policy.get("transform_first_robot_pose", False)),
        bridge_from="last_target" if policy.get("interpolate_from_last_target_pose", True) else "current",
    )


def _job(policy: Mapping[str, Any]) -> dict[str, int | bool]:
    counts = "episodes" if policy.get("guarantee", policy.get("guarantee_success", True)) else "attempts"
    return {counts: int(policy.get("num_trials", 10)), "keep_failed": bool(policy.get("keep_failed", False))}


def _remark_unknown(where: str, stored: Mapping[str, Any], known: set[str], remarks: list[str]) -> None:
    remarks += [f"{where}: {key} = {stored[key]!r} is not known and was left out" for key in stored if key not in known]
