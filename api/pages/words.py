"""What the states, rules and events of the job book are called on the dashboard."""

from __future__ import annotations

from collections.abc import Mapping

STATES: Mapping[str, tuple[str, str, str]] = {
    "validating": ("checking", "wait", "Waits for its files to be checked."),
    "queued": ("queued", "wait", "Waits for a worker."),
    "running": ("running", "go", "Attempts are being made."),
    "paused": ("paused", "hold", "No attempts are handed out until it is resumed."),
    "cancelling": ("cancelling", "hold", "Is being stopped; what it has is kept."),
    "rendering": ("rendering", "go", "Every attempt is made; kept episodes are being drawn."),
    "finalizing": ("writing", "go", "The dataset is being written and verified."),
    "succeeded": ("succeeded", "good", "Done; its dataset is verified."),
    "failed": ("failed", "bad", "Ended without what was asked for."),
    "cancelled": ("cancelled", "off", "Somebody stopped it."),
    "expired": ("expired", "off", "Its time was up."),
}
"""State -> word on the badge, kind of badge, one sentence."""

STAGES = ("queued", "running", "rendering", "finalizing")
"""What a job goes through, in order; what is missing in a job's times it has not reached or did not need."""

RULES: Mapping[str, tuple[str, str]] = {
    "target": ("target reached", "It has as many episodes as were asked for."),
    "attempts": ("all attempts made", "Every attempt that was asked for has been made."),
    "max_attempts": ("max_attempts", "It made as many attempts as it was allowed, and too few succeeded."),
    "min_success_rate": ("min_success_rate", "Fewer attempts succeeded than it demanded."),
    "max_wall_s": ("max_wall_s", "Its time was up."),
    "cancelled": ("cancelled", "Somebody cancelled it."),
    "error": ("error", "It could not go on."),
}
"""Rule that ended a job -> short name, one sentence."""

EVENTS: Mapping[str, str] = {
    "job.created": "asked for",
    "job.validating": "waits for its files",
    "job.queued": "queued",
    "job.running": "started",
    "job.paused": "paused",
    "job.cancelling": "is being cancelled",
    "job.attempts_done": "made its last attempt",
    "job.rendering": "draws its episodes",
    "job.finalizing": "writes its dataset",
    "job.succeeded": "succeeded",
    "job.failed": "failed",
    "job.cancelled": "cancelled",
    "job.expired": "ran out of time",
    "job.executor": "fixed its executor",
    "dream.stage": "began a stage",
    "dream.ended": "dreams no further",
    "worker.died": "a worker died",
    "worker.unlike": "a worker was turned away: its runtime differs",
    "storage.failed": "storage failed",
    "clip.done": "drew a clip",
    "clip.failed": "could not draw a clip",
    "push.done": "pushed a dataset",
    "push.failed": "could not push a dataset",
}
"""Type of an event -> what the job did."""

DREAMS: Mapping[str, tuple[str, str]] = {
    "executed_success": ("came true", "good"),
    "executed_failure": ("did not come true", "bad"),
    "not_replayable": ("cannot be tried", "off"),
    "not_tried": ("not tried yet", "wait"),
    "accept": ("accepted", "good"),
    "reject": ("rejected", "bad"),
    "abstain": ("undecided", "hold"),
    "error": ("no answer", "hold"),
    "not_judged": ("not judged", "off"),
}
"""Tier or verdict of a dream -> words, kind of badge."""

DREAM_STAGES: Mapping[str, str] = {
    "prepare": "Are all models there?",
    "frames": "First frames, with the simulator's state beside each.",
    "propose": "What is to be done in each.",
    "generate": "The video model imagines it.",
    "judge": "Does the film show what was asked for?",
    "label": "Actions are read from the pictures.",
    "verify": "The actions are carried out in the simulator.",
    "export": "Datasets are drawn and written.",
}
"""Stage of a job of dreams -> one sentence."""

SEVERITIES: Mapping[str, str] = {"error": "bad", "warning": "hold", "note": "off"}


def state(name: str) -> tuple[str, str, str]:
    """Return word, kind and sentence of a state; one that is new here is shown by its own name."""
    return STATES.get(name, (name, "off", ""))


def rule(name: str) -> tuple[str, str]:
    """Return short name and sentence of a stop rule."""
    return RULES.get(name, (name, ""))


def event(name: str) -> str:
    """Return what a job did."""
    return EVENTS.get(name, name)


def reason(name: str) -> str:
    """Return a failure's reason without underscores."""
    return name.replace("_", " ")
