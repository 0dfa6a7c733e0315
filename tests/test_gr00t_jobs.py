"""GR00T views that jobs make: from the clips they drew, or refused before anything is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from api import jobs
from api.database import Database, sqlite_url
from api.specs import JobSpec, SourceFile
from api.store import Store
from factory.episodes import add_clips, write_shard
from factory.errors import SpecError
from factory.gr00t_layouts import LAYOUTS
from factory.specs import GenerationSpec, RenderSpec
from factory.video import ClipWriter
from sim_tasks.robots import PANDA
from tests import tower
from tests.gr00t_episodes import robot_episode
from tests.site import open_site, problem
from tests.stub_workers import EXECUTOR, LinkedShards, StubTransport, every
from tests.synthetic import make_clip
from workers.dispatcher import Dispatcher
from workers.finish import finalize
from workers.render import render_info
from workers.worker import shards_key, source_key


def test_a_job_makes_the_view_too_from_the_clips_it_drew(tmp_path: Path) -> None:
    render = RenderSpec(cameras=("agentview",), width=64, height=64)
    shard = write_shard(tmp_path, robot_episode(PANDA, 0, rows=16))
    with pytest.MonkeyPatch.context() as patch:
        drawn = {"agentview": make_clip(tmp_path / "agentview.mp4", range(16))}
        add_clips(shard, drawn, render_info(render))
        patch.setattr(ClipWriter, "__init__", None)  # whoever encodes from here on fails
        database, store = Database(sqlite_url(tmp_path / "book.db")), Store(tmp_path / "store")
        database.migrate()
        enter_files(store, tmp_path)
        spec = JobSpec(
            task="stack",
            sources=(SourceFile(name="demos.hdf5", sha256="0" * 64),),
            generation=GenerationSpec(),
            attempts=3,
            render=render,
            formats=("lerobot", "gr00t"),
        )
        with database.transaction() as session:
            job_id = jobs.create(session, spec).id
        place = store.path(shards_key(job_id))
        assert place is not None
        model = f"jobs/{job_id}/models/{EXECUTOR['model_sha']}.xml"
        store.put(tmp_path / "model.xml", model)
        shards = LinkedShards(shard, place)
        crew = StubTransport(keeps=every(1), shards=shards, capabilities=("simulate", "render"))
        dispatcher = Dispatcher(database, store, [crew])
        dispatcher.run(lambda session: jobs.get(session, job_id).status == "finalizing")
        dispatcher.close()
        found = finalize(database, store, job_id)
        with database.transaction() as session:
            again = jobs.export(session, found["dataset_id"], spec, to="gr00t", name="later").id
        later = finalize(database, store, again)
        database.close()
    assert [(one["kind"], one["episodes"], one["frames"]) for one in found["datasets"]] == [
        ("lerobot", 3, 48),
        ("gr00t", 3, 48),
    ]
    view = store.path(found["datasets"][1]["key"])
    assert view is not None
    (clip,) = shard.glob("clips-*/*.mp4")
    films = sorted(view.glob("videos/*/*/*.mp4"))
    assert len(films) == 3
    assert all(film.samefile(clip) for film in films), "the stub links one clip into every shard"
    copy = store.path(later["datasets"][0]["key"])
    assert copy is not None
    assert later["datasets"][0]["kind"] == "gr00t"
    assert {film.relative_to(view) for film in films} == {p.relative_to(copy) for p in copy.glob("videos/*/*/*.mp4")}
    assert (copy / "meta/info.json").read_bytes() == (view / "meta/info.json").read_bytes()


def enter_files(store: Store, folder: Path) -> None:
    """Put what a job at `stack` needs into the store: demonstrations and the scene's text."""
    (folder / "model.xml").write_text("<mujoco/>")
    store.put(tower.write_demonstrations(folder / "demos.hdf5", count=1), source_key("0" * 64))


@pytest.mark.parametrize("render", [None, RenderSpec(codec="av1")])
def test_a_job_whose_pictures_gr00t_could_not_read_is_refused_at_once(render: RenderSpec | None) -> None:
    with pytest.raises(SpecError, match="gr00t needs pictures as H.264"):
        JobSpec(
            task="stack",
            sources=(),
            generation=GenerationSpec(),
            attempts=1,
            render=render,
            formats=("lerobot", "gr00t"),
        )


def test_the_service_says_at_once_what_cannot_become_a_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"task": "stack", "episodes": 1, "formats": ["lerobot", "gr00t"]}
    with open_site(tmp_path) as site:
        assert site.client.post("/v1/jobs", json=asked).is_success
        said = problem(site.client.post("/v1/jobs", json={**asked, "render": None}), 422)
        assert "gr00t needs pictures" in said["detail"]
        monkeypatch.delitem(LAYOUTS, "panda")  # as for the robot of a task from another package
        said = problem(site.client.post("/v1/jobs", json=asked), 422, "unfit_robot")
        assert "'panda'; leave out the format 'gr00t'" in said["detail"]
