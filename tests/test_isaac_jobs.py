"""A job of the capability isaac, from upload to dataset: real service, real pull worker, a stand-in environment."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from api import keys
from api.client import Client
from factory.dataset_reading import open_dataset
from factory.demos import read_demos
from factory.recording import episode_of
from sim_tasks.catalog import capability_of
from tests import pull_site
from workers.isaac_export import export_isaaclab, write_episodes

pytest.importorskip("torch")

from tests.test_isaaclab import SPEC, STACK, attempts, on_fake

ROOT = Path(__file__).resolve().parents[1]
LAB = '''"""A package of somebody who has an environment of their own."""
from dataclasses import replace

from tests.test_isaaclab import STACK, on_fake

TASK = replace(on_fake(STACK, "stack_v3"), name="lab_tower")
'''


def install(folder: Path) -> str:
    """Make an installed package that offers the task, and return a PYTHONPATH on which it is found."""
    about = folder / "a_lab-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / "a_lab.py").write_text(LAB)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: a-lab\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[trajectory_factory.tasks]\ntower = a_lab:TASK\n")
    return f"{folder}:{ROOT}"


@pytest.mark.slow
def test_a_job_of_isaac_lab_goes_from_upload_to_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service itself cannot open the environment; only the machine that pulls can."""
    assert capability_of(on_fake(STACK, "stack_v3")) == "isaac"
    made = [episode_of(result, STACK, SPEC, {"backend": "isaaclab"}) for result in attempts("stack_v3", 1).values()]
    demos = write_episodes(tmp_path / "annotated.hdf5", made)
    site = pull_site.PullSite(tmp_path / "site", environment={"PYTHONPATH": install(tmp_path / "packages")})
    with closing(site):
        with site.book.transaction() as session:
            _, key = keys.create_key(session, name="me", scopes=["read", "write"])
        site.serve(writer=False)
        site.start()  # the service's own workers: they check and write, and must leave the attempts alone
        pull_site.chaos.wait_for(site.healthy, "the service to answer")
        url = f"http://127.0.0.1:{site.port}"
        with Client(url, key) as client:
            file = client.files.upload(demos, task="lab_tower")
            recipe = {"seed": SPEC.seed, "end_jitter_steps": [0, 2], "noise_normalised": SPEC.noise_normalised}
            asked = {"backend": "isaaclab", "attempts": 3, "render": None, "generation": recipe}
            job = client.create_job(task="lab_tower", files=[file.id], **asked)
            assert client.files.wait(file.id).status == "ready"
            assert site.job(job.id).attempted == 0
            site.lend(url, options=("--capability", "isaac"))
            ended = site.ended(job.id)
            assert (ended.status, ended.attempted) == ("succeeded", 3), site.story(job.id)
            client.download(str(client.job(job.id).dataset_id), tmp_path / "dataset")
    assert ended.succeeded >= 2
    kept = open_dataset(tmp_path / "dataset")
    monkeypatch.syspath_prepend(tmp_path / "packages")  # the export asks the task what its signals are
    exported = read_demos(export_isaaclab(tmp_path / "dataset", tmp_path / "out.hdf5"))
    assert len(exported) == kept.episodes == ended.succeeded
