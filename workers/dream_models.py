"""Which models a worker dreams with: folders below the installation's folder of models, and its language model.

FACTORY_MODELS names the folder. A request names models by their place in it; no name leads out of it. Those that come
with the package are known by their names, where the folder has nothing of that name. FACTORY_LLM_URL,
FACTORY_LLM_MODEL, FACTORY_LLM_KEY and FACTORY_LLM_PRICES ("0.4,1.6", USD per million tokens in and out) say which
language model is asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from api.dream_specs import MODEL_NAME, DreamSpec
from dreams.shipped import USUAL, is_shipped, shipped
from factory.errors import SpecError

if TYPE_CHECKING:
    from dreams.endpoint import Endpoint

MODELS, URL, MODEL, PRICES = (f"FACTORY_{name}" for name in ("MODELS", "LLM_URL", "LLM_MODEL", "LLM_PRICES"))
_MAKES: Mapping[str, str] = {
    "video": "`factory dream finetune DATASET --out {training}` trains a small one (its subfolder `model`), "
    "`hf download Wan-AI/Wan2.2-TI2V-5B-Diffusers --local-dir {folder}` fetches a large one to adapt; without a name "
    "the shipped one dreams",
    "idm": "`factory dream train-idm DATASET --out {folder}` trains one; without a name the shipped one reads",
    "latents": "`factory dream train-latents DATASET --out {folder}` trains one",
    "classifier": "`factory dream train-judge PLAYS --out {folder}` trains one; without a name the shipped one judges",
}
"""Kind of model -> where one comes from."""


def able() -> tuple[str, ...]:
    """Return which stages of dreams this Python can do: "dream" runs models, "replay" needs a simulator; none loaded.

    `replay` reads frames and labels with the light half of the extra `dreams`.
    """
    light = all(find_spec(name) for name in ("openai", "safetensors", "PIL"))
    models = light and all(find_spec(name) for name in ("torch", "diffusers", "transformers"))
    replays = light and all(find_spec(name) for name in ("mujoco", "robosuite"))
    return (*(("dream",) if models else ()), *(("replay",) if replays else ()))


def model_folder(given: Mapping[str, str], kind: str, name: str) -> Path:
    """Return the folder of a model.

    Args:
        given: environment variables.
        kind: "video", "idm", "latents" or "classifier".
        name: its place below FACTORY_MODELS, or what it is called among those that come with the package.

    Raises:
        SpecError: there is no folder of models, the name leads out of it, or nothing is there; the sentence says which
            command or download provides it.
    """
    if is_shipped(name) and not (given.get(MODELS) and Path(given[MODELS], name).is_dir()):
        return shipped(name)
    if not given.get(MODELS):
        raise SpecError(f"{kind} model {name!r}: this worker has no folder of models; {MODELS} names it")
    root = Path(given[MODELS]).resolve()
    folder = (root / name).resolve() if re.fullmatch(MODEL_NAME, name) else root
    if folder == root or not folder.is_relative_to(root):
        raise SpecError(f"{kind} model {name!r} does not lie below the folder of models, {root}")
    if not folder.is_dir():
        training = folder.parent if folder.name == "model" else folder
        makes = _MAKES[kind].format(folder=folder, training=training)
        raise SpecError(f"there is no {kind} model {name!r} below {root}. {makes}. Nothing is downloaded here")
    return folder


def check_models(given: Mapping[str, str], asked: DreamSpec) -> dict[str, Path]:
    """Return the folder of every model that a job needs, the usual shipped one where it names none.

    Raises SpecError for one that is missing.
    """
    usual = {kind: name for kind, name in USUAL.items() if kind != "classifier" or asked.judge == "classifier"}
    names = {kind: getattr(asked, kind) or usual.get(kind) for kind in _MAKES}
    found = {kind: model_folder(given, kind, name) for kind, name in names.items() if name}
    if asked.asks_endpoint:
        _check_endpoint(given)
    return found


def open_endpoint(given: Mapping[str, str], ledger: Path, *, budget_usd: float | None) -> Endpoint:
    """Open the installation's language model; what it is asked and costs is entered in `ledger`.

    Raises:
        SpecError: none is configured, or a budget is given without prices.
    """
    from workers.dream_options import endpoint_of  # noqa: PLC0415 - only those who ask one need it

    _check_endpoint(given)
    found = endpoint_of(ledger, given[URL], given[MODEL], budget_usd, given.get(PRICES, ""))
    if found is None:
        raise SpecError(f"{URL} is empty")
    return found


def _check_endpoint(given: Mapping[str, str]) -> None:
    if not given.get(URL) or not given.get(MODEL):
        raise SpecError(f"no language model is configured here; {URL} and {MODEL} name one, up to and with /v1")
