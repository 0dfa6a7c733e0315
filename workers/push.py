"""Sends a finished dataset to where people train: the Hugging Face hub, or any place fsspec can write to."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from api.store import Store
from factory.errors import StorageError

_HUB = "hf://"


def push_dataset(store: Store, payload: Mapping[str, Any]) -> dict[str, Any]:
    """Upload a dataset with its card and return where it is.

    Args:
        store: where the dataset lies.
        payload: "key" of its folder, "to" (hf://OWNER/NAME or a URL that fsspec knows), "private", and "card", the text
            of its README.md.

    Raises:
        StorageError: the other side refused or cannot be reached; the sentence carries its words.
    """
    to = str(payload["to"])
    with store.checkout(str(payload["key"])) as folder:
        if to.startswith(_HUB):
            return _to_hub(folder, to.removeprefix(_HUB), payload)
        return _to_url(folder, to, payload)


def _to_hub(folder: Path, repository: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    try:
        from huggingface_hub import HfApi  # noqa: PLC0415 - an extra; the token comes from its own environment
    except ImportError as error:
        raise StorageError("pushing to hf:// needs huggingface_hub; install trajectory-factory[hub]") from error
    hub = HfApi()
    try:
        hub.create_repo(repository, repo_type="dataset", private=bool(payload.get("private", True)), exist_ok=True)
        if card := payload.get("card"):
            hub.upload_file(
                path_or_fileobj=str(card).encode(), path_in_repo="README.md", repo_id=repository, repo_type="dataset"
            )
        commit = hub.upload_folder(folder_path=folder, repo_id=repository, repo_type="dataset")
    except Exception as error:  # whatever the hub or the network says, in its words
        raise StorageError(f"the hub did not take {repository}: {error}") from error
    return {"url": f"{_HUB}{repository}", "commit": commit.oid}


def _to_url(folder: Path, url: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    place = Store(url)
    with tempfile.TemporaryDirectory() as scratch:
        # A copy, because putting something into a local store moves it there.
        copy = Path(scratch, "dataset")
        shutil.copytree(folder, copy)
        if card := payload.get("card"):
            (copy / "README.md").write_text(str(card), encoding="utf-8")
        for child in sorted(copy.iterdir()):
            place.put(child, child.name)
    return {"url": url}
