"""Dreams as jobs of the service: stages shared by workers, gone on with after a kill, datasets like any other.

The video model has random weights and shows noise, so nothing it dreams comes true; every stage is real all the same.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlmodel import select

from api import dreams, jobs, leases
from api.client import Client
from api.database import Database, sqlite_url
from api.dream_specs import DreamSpec
from api.messages import Done, Work
from api.store import Store
from api.tables import Dream, Job, Unit
from dreams.shipped import IDM, USUAL, VIDEO, shipped
from factory.dataset_checks import verify_dataset
from factory.dataset_reading import dataset_digest, open_dataset, read_episodes
from factory.errors import ServiceError, SpecError
from sim_tasks.tasks.tabletop import HELD_OUT
from tests.site import Site, on_a_port, open_site, problem
from tests.test_pages import page
from tests.test_service import Served
from workers.dream_models import check_models, model_folder
from workers.dream_runs import lent_run
from workers.processes import SPAWN
from workers.ray import Cluster

TASKS = (HELD_OUT[0], HELD_OUT[-1])
SMALL = {"tasks": list(TASKS), "frames": 2, "per_frame": 2, "video": "video/tiny", "steps": 2, "batch": 2}
ASKED = DreamSpec(tasks=TASKS, frames=2, per_frame=2, video="video/tiny", batch=2)
PATIENCE_S = 1200.0
"""Every worker imports torch and opens a simulator; on a busy machine that takes a minute each."""
ABLE = ("simulate", "render", "write", "dream", "replay")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models with one in it, of random weights, for pictures as the shipped labels' model reads them."""
    from dreams.codec import fit_codec
    from dreams.new_models import new_model
    from dreams.timebase import TimeBase
    from dreams.views import Grid

    root = tmp_path_factory.mktemp("models")
    (root / "video").mkdir()
    clips = np.random.default_rng(0).integers(0, 256, (4, 33, 64, 64, 3), dtype=np.uint8)
    time, grid = TimeBase(control_hz=20, stride=4, frames=33), Grid(views=("dream_view",), height_px=64, width_px=64)
    codec = fit_codec(list(clips), z_dim=16)
    new_model(root / "video" / "tiny", size="tiny", codec=codec, time=time, grid=grid, embodiment="panda", seed=0)
    return root


class Killed:
    """A service whose workers are killed with SIGKILL at named moments, once at each."""

    def __init__(self, folder: Path, models: Path, points: dict[str, int], *options: str) -> None:
        self.markers = {name: folder / f"killed-{name}" for name in points}
        failpoints = ",".join(f"{name}:{count}:{self.markers[name]}" for name, count in points.items())
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FACTORY_MODELS", str(models))
            patch.setenv("FACTORY_FAILPOINT", failpoints)
            self.served = Served(folder / "data", options)

    def ended(self, job_id: str) -> dict[str, Any]:
        path = f"/v1/jobs/{job_id}"
        self.served.until(lambda: self.served.get(path)["finished_at"], f"{job_id} to end", PATIENCE_S)
        return self.served.get(path)

    def run_folder(self, job_id: str) -> Path:
        return self.served.data / "store" / "jobs" / job_id / "run"


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Killed]:
    found = Killed(tmp_path_factory.mktemp("killed"), models, {"dreams.kept": 1}, "--workers", "1")
    yield found
    found.served.stop()


@pytest.fixture(scope="module")
def job(killed: Killed) -> dict[str, Any]:
    """A finished job whose worker was killed in the middle of dreaming."""
    served = killed.served
    made = served.post("/v1/dreams", {**SMALL, "name": "four dreams"})
    assert (made["purpose"], made["status"], made["max_attempts"]) == ("dream", "queued", 4)
    served.until(killed.markers["dreams.kept"].exists, "a worker to die in a dream", PATIENCE_S)
    kept = {path.name: path.stat().st_mtime_ns for path in (killed.run_folder(made["id"]) / "dreams").glob("dream-*")}
    assert len(kept) == 1

    def further() -> bool:
        return served.get(f"/v1/jobs/{made['id']}")["dreams"]["stage"] in ("label", "verify")

    served.until(further, "all to be dreamt", PATIENCE_S)
    again = {path.name: path.stat().st_mtime_ns for path in (killed.run_folder(made["id"]) / "dreams").glob("dream-*")}
    assert len(again) == 4
    assert again.items() >= kept.items(), "what was dreamt before the kill is not dreamt again"
    return killed.ended(made["id"])


@pytest.mark.sim
@pytest.mark.slow
def test_a_job_of_dreams_goes_on_after_a_kill(killed: Killed, job: dict[str, Any]) -> None:
    assert (job["status"], job["ended_by"], job["error"]) == ("succeeded", "target", None), job
    assert all(marker.exists() for marker in killed.markers.values())
    events = killed.served.get(f"/v1/jobs/{job['id']}/events?limit=1000")["data"]
    assert [e["data"]["stage"] for e in events if e["type"] == "dream.stage"] == job["dreams"]["stages"]
    assert [e["data"]["stage"] for e in events if e["type"] == "worker.died"] == ["generate"]
    assert job["dreams"]["passed"] == {"verify": 4}
    assert job["dreams"]["verdicts"] == {"not_judged": 4}
    assert sum(job["dreams"]["tiers"].values()) == 4
    counts = job["request_counts"]
    assert counts["attempted"] == counts["succeeded"] + counts["failed"] == 4
    assert job["progress"] == 1.0


@pytest.mark.sim
@pytest.mark.slow
def test_every_dream_has_its_films(killed: Killed, job: dict[str, Any]) -> None:
    with Client(str(killed.served.http.base_url)) as client:
        found = list(client.dreams(job["id"]))
        assert [dream.index for dream in found] == [0, 1, 2, 3]
        assert [d.index for d in client.dreams(job["id"], tier=found[0].tier)] == [
            d.index for d in found if d.tier == found[0].tier
        ]
        assert not list(client.dreams(job["id"], verdict="accept"))
    for dream in found:
        assert dream.instruction.startswith("Pick up the ")
        assert dream.tier in ("executed_success", "executed_failure")
        assert dream.verification is not None
        assert dream.confidence is not None
        assert 0.0 < dream.confidence <= 1.0
        for address, kind in ((dream.film, b"ftyp"), (dream.twins["dream_view"], b"ftyp"), (dream.first_frame, b"PNG")):
            answer = killed.served.http.get(str(address))
            assert answer.status_code == 200
            assert kind in answer.content[:16]
    problem(killed.served.http.get(f"/v1/jobs/{job['id']}/dreams/9"), 404)
    problem(killed.served.http.get(f"/v1/jobs/{job['id']}/dreams/0/film?show=twin&camera=../x"), 404)


@pytest.mark.sim
@pytest.mark.slow
def test_its_dataset_is_one_like_any_other(killed: Killed, job: dict[str, Any], tmp_path: Path) -> None:
    served, name = killed.served, job["dataset_id"]
    tar = served.http.get(f"/v1/datasets/{name}.tar")
    with tarfile.open(fileobj=io.BytesIO(tar.content)) as archive:
        archive.extractall(tmp_path, filter="data")
    (root,) = [path.parent.parent for path in tmp_path.rglob("meta/info.json")]
    verify_dataset(root, decode=True)
    row = served.get(f"/v1/datasets/{name}")
    assert (row["digest"], row["episodes"], row["facts"]["dreams"]) == (dataset_digest(root), 4, "labelled")
    assert open_dataset(root).robot_type == "panda_dream"
    asked = [episode.provenance["asked"] for episode in read_episodes(root)]
    assert asked == [dream["instruction"] for dream in served.get(f"/v1/jobs/{job['id']}/dreams")["data"]]
    assert served.http.get(f"/v1/datasets/{name}/episodes").status_code == 200
    refused = served.http.post(f"/v1/datasets/{name}/exports", json={"to": "lerobot"})
    problem(refused, 409, "dreams")
    run = killed.run_folder(job["id"])
    served.until(lambda: not run.exists(), "the run to be removed")
    assert served.http.get(f"/v1/jobs/{job['id']}/dreams/0/film").status_code == 200


@pytest.mark.sim
@pytest.mark.slow
def test_a_model_that_is_missing_ends_the_job_with_what_provides_it(killed: Killed) -> None:
    served = killed.served
    ended = killed.ended(served.post("/v1/dreams", {**SMALL, "video": "video/none"})["id"])
    assert ended["status"] == "failed"
    assert "factory dream finetune" in ended["error"]["message"]
    assert "hf download" in ended["error"]["message"]


@pytest.mark.slow
@pytest.mark.sim
@pytest.mark.parametrize("executor", ["local", "ray"])
def test_a_kill_in_each_stage(tmp_path: Path, models: Path, executor: str) -> None:
    points = {f"dream.{stage}": 1 for stage in ASKED.stages}
    killed = Killed(tmp_path, models, points, "--executor", executor, "--workers", "2")
    try:
        served = killed.served
        made = served.post("/v1/dreams", SMALL)
        ended = killed.ended(made["id"])
        assert ended["status"] == "succeeded", ended
        events = served.get(f"/v1/jobs/{made['id']}/events?limit=1000")["data"]
        assert {e["data"]["stage"] for e in events if e["type"] == "worker.died"} == {*ASKED.stages}
        assert ended["dreams"]["passed"] == {"verify": 4}
    finally:
        killed.served.stop()


# --- the job book -----------------------------------------------------------------------------------------------------


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Database]:
    database = Database(sqlite_url(tmp_path / "book.db"))
    database.migrate()
    yield database
    database.close()


def leased(book: Database, *, able: tuple[str, ...] = ABLE) -> Work | None:
    with book.transaction() as session:
        return leases.lease(session, owner="d", worker="w", capabilities=able)


def answered(book: Database, work: Work, **result: Any) -> leases.Receipt:
    with book.transaction() as session:
        answer = Done(unit=work.unit, epoch=work.epoch, result={"seconds": 1.0, **result})
        return leases.commit(session, [answer])


def entered(book: Database, asked: DreamSpec = ASKED) -> str:
    with book.transaction() as session:
        return dreams.create(session, asked).id


def job_of(book: Database, job_id: str) -> Job:
    with book.reading() as session:
        return jobs.get(session, job_id)


def up_to(book: Database, stage: str) -> list[Work]:
    """Answer as a worker would until the first unit of a stage is handed out; return all units of that stage."""
    while True:
        work = leased(book)
        assert work is not None
        if work.payload["stage"] == stage:
            found = [work]
            while (more := leased(book)) is not None:
                found.append(more)
            return found
        answered(book, work, **brought(work))


def brought(work: Work) -> dict[str, Any]:
    """What the stages of two dreams bring."""
    match work.payload["stage"]:
        case "prepare":
            return {"facts": {"shares": dict.fromkeys(TASKS, 1), "grid": {}}}
        case "propose":
            return {"dreams": [{"index": i, "instruction": f"Pick {i}.", "frame": "f"} for i in range(4)]}
        case "label":
            return {"dreams": [{"index": i, "confidence": 0.5} for i in work.indices]}
        case "verify":
            tiers = ("executed_success", "executed_failure", "not_replayable", "executed_success")
            return {"dreams": [{"index": i, "tier": tiers[i]} for i in work.indices]}
        case "export":
            return {"facts": {"exported": {"labelled": "jobs/x"}}}
    return {}


def test_a_stage_begins_when_the_last_unit_of_the_one_before_is_in(book: Database) -> None:
    job_id = entered(book)
    first, second = up_to(book, "generate")
    assert (first.indices, second.indices) == ((0, 1), (2, 3))
    answered(book, second)
    assert leased(book) is None
    before = dreams.progress(job_of(book, job_id))
    answered(book, first)
    assert dreams.progress(job_of(book, job_id)) > before
    work = leased(book)
    assert work is not None
    assert (work.payload["stage"], work.indices) == ("label", (0, 1)), "nobody was asked to judge"


def test_every_stage_goes_to_those_who_can_do_it(book: Database) -> None:
    entered(book)
    while work := leased(book):
        stage = work.payload["stage"]
        with book.transaction() as session:
            leases.give_back(session, [(work.unit, work.epoch)])
        others = tuple(name for name in ABLE if name != dreams.NEEDS[stage])
        assert leased(book, able=others) is None, stage
        again = leased(book, able=(dreams.NEEDS[stage],))
        assert again is not None
        answered(book, again, **brought(again))
        if stage == "export":
            break
    finalize = leased(book, able=("write",))
    assert finalize is not None
    assert finalize.kind == "finalize"


def test_what_comes_true_is_counted(book: Database) -> None:
    job_id = entered(book)
    up_to(book, "export")
    job = job_of(book, job_id)
    assert (job.status, job.attempted, job.succeeded, job.failed) == ("rendering", 3, 2, 1)
    assert job.worker_s > 0
    with book.reading() as session:
        assert [row.idx for row in dreams.listed(session, job_id, tier="executed_success")] == [0, 3]
        assert dreams.counts(session, job_id)["tier"]["not_replayable"] == 1


def test_an_answer_under_an_old_lease_is_refused(book: Database) -> None:
    job_id = entered(book)
    work = up_to(book, "generate")[0]
    with book.transaction() as session:
        leases.died(session, work, at_index=None, how="killed by SIGKILL")
    assert answered(book, work, dreams=[{"index": 0, "instruction": "forged"}]).lost == {work.unit}
    with book.reading() as session:
        row = session.get(Dream, (job_id, 0))
        assert row is not None
        assert (row.stage, row.instruction) == ("propose", "Pick 0.")


def test_a_batch_that_kills_three_workers_ends_the_job(book: Database) -> None:
    job_id = entered(book)
    work: Work | None = up_to(book, "generate")[0]
    for _ in range(leases.STRIKES):
        assert work is not None
        with book.transaction() as session:
            leases.died(session, work, at_index=None, how="killed by SIGKILL")
        work = leased(book)
    job = job_of(book, job_id)
    assert (job.status, (job.error or {})["code"]) == ("failed", "dream_poison")
    with book.reading() as session:
        assert session.exec(select(Unit)).first() is None


def test_a_paused_job_is_handed_out_to_nobody(book: Database) -> None:
    job_id = entered(book)
    first, second = up_to(book, "generate")
    with book.transaction() as session:
        jobs.pause(session, job_id)
    answered(book, first)
    answered(book, second)
    assert leased(book) is None
    with book.transaction() as session:
        jobs.resume(session, job_id)
    work = leased(book)
    assert work is not None
    assert work.payload["stage"] == "label"


def test_cancelling_keeps_the_dreams_whose_actions_were_read(book: Database) -> None:
    early, late = entered(book), ""
    up_to(book, "generate")
    with book.transaction() as session:
        assert jobs.cancel(session, early).status == "cancelled"
    late = entered(book)
    units = up_to(book, "label")
    answered(book, units[1], **brought(units[1]))
    with book.transaction() as session:
        jobs.cancel(session, late)
    assert job_of(book, late).status == "rendering"
    work = leased(book)
    assert work is not None
    assert (work.payload["stage"], work.indices) == ("export", (2, 3))
    assert answered(book, units[0], **brought(units[0])).lost == {units[0].unit}


def test_a_job_without_a_dream_to_keep_has_failed_with_advice(book: Database) -> None:
    job_id = entered(book)
    (work,) = up_to(book, "export")
    answered(book, work, facts={"exported": {}})
    job = job_of(book, job_id)
    assert (job.status, job.error, job.dataset_id) == ("failed", None, None)
    assert "ask for all of them" in job.advice


def test_models_run_on_nodes_that_are_set_apart_for_them() -> None:
    from workers.ray_driver import Driver

    able = ("simulate", "render", "dream", "replay")
    cluster = Cluster(
        store_url="", address=None, workers=None, renderers=None, capabilities=able, bench="workers.worker:Bench",
        folder=Path("/nowhere"), patience_s=1.0,
    )  # fmt: skip
    pipe, _ = SPAWN.Pipe()
    driver = Driver(pipe, cluster)
    for room, dreamers, replayers in (
        ({"CPU": 4}, {"sim"}, {"sim"}),
        ({"CPU": 4, "GPU": 1, "gpu": 1}, {"gpu"}, {"sim"}),
        ({"sim": 4, "dream": 1}, {"dream"}, {"sim", "dream"}),
        ({"sim": 4, "render": 2, "gpu": 1, "dream": 2}, {"dream"}, {"sim", "dream"}),
    ):
        crews = driver._plan(room)
        assert {name for name, crew in crews.items() if "dream" in crew.capabilities} == dreamers, room
        assert {name for name, crew in crews.items() if "replay" in crew.capabilities} == replayers, room
        assert all(crew.size == room.get(crew.needs) for crew in crews.values())


# --- the dashboard ----------------------------------------------------------------------------------------------------

JUDGED = {
    "verdict": "reject", "score": 0.25, "votes": [0.25, 0.5], "events": {"grasped": ["no", "unsure"]}, "contrast": 0.1,
    "caption": "Pick up the red bar from the table and place it on the tray.", "refiled": None,
    "reason": "<b>the hand</b> closes beside it", "judge": "j", "version": "1", "frames": [0, 8],
}  # fmt: skip
TRIED = {"tier": "executed_failure", "reason": "dropped", "mode": "tracked", "touched": True, "off_m": 0.012}


def site_with_dreams(site: Site) -> str:
    """A job with two judged dreams, one of which was carried out; return its id."""
    job_id = entered(site.database)
    rows = (
        Dream(job_id=job_id, idx=0, instruction="Pick up the red cube.", frame="f/0", stage="verify", verdict="reject",
              tier="executed_failure", confidence=0.75,
              record={"film": {"pictures": 33, "hz": 5}, "judgement": JUDGED, "verification": TRIED,
                      "twin": {"cameras": ["dream_view"], "rows": 128, "hz": 20}}),
        Dream(job_id=job_id, idx=1, instruction="Pick up the blue bar.", frame="f/1", verdict="accept"),
    )  # fmt: skip
    with site.database.transaction() as session:
        session.add_all(rows)
    return job_id


def test_a_dream_is_shown_beside_its_twin_with_what_speaks_for_it(tmp_path: Path) -> None:
    with open_site(tmp_path) as site:
        job_id = site_with_dreams(site)
        text = page(site, f"/jobs/{job_id}/dreams?show=0")
        film, twin = (f"/v1/jobs/{job_id}/dreams/0/film?show={what}" for what in ("dream", "twin"))
        assert f'src="{film}#t=' in text
        assert f'src="{twin}&amp;camera=dream_view#t=' in text
        for words in ("Pick up the red cube.", "rejected", "did not come true", "no, unsure", "12 mm", "0.25, 0.50"):
            assert words in text, words
        assert "&lt;b&gt;the hand&lt;/b&gt;" in text
        assert "<b>the hand" not in text
        accepted = page(site, f"/jobs/{job_id}/dreams?verdict=accept")
        assert "Pick up the blue bar." in accepted
        assert "Pick up the red cube." not in accepted
        assert "No dream is like that." in page(site, f"/jobs/{job_id}/dreams?tier=executed_success")
        page(site, f"/jobs/{job_id}/dreams?show=7", 404)


def test_the_page_of_a_job_tells_its_stage_and_who_is_missing(tmp_path: Path) -> None:
    with open_site(tmp_path) as site:
        job_id = site_with_dreams(site)
        text = page(site, f"/jobs/{job_id}")
        for words in ("prepare", "Pick up the red cube.", f"/jobs/{job_id}/dreams?tier=executed_failure", "No worker"):
            assert words in text, words
        assert "/v1/dreams" in text, "the command that makes it again"
        assert f"/jobs/{job_id}/live" in text
        assert site.client.post(f"/jobs/{job_id}/cancel", follow_redirects=False).status_code == 303
        export = leased(site.database)
        assert export is not None
        answered(site.database, export, facts={"exported": {}})
        assert f"/jobs/{job_id}/live" not in page(site, f"/jobs/{job_id}"), "an ended job is not asked about again"
        assert "Gives up" not in text
        assert job_id in page(site, "/")


def test_the_form_asks_for_what_it_says_and_comes_back_when_it_is_wrong(tmp_path: Path) -> None:
    with open_site(tmp_path) as site:
        assert 'name="video"' in page(site, "/dreams/new")
        values = {"tasks": ", ".join(TASKS), "held_out": "1", "frames": "2", "per_frame": "2", "video": "video/tiny",
                  "variant": "D0", "seeds": "1", "seed": "9", "steps": "4", "judge": "nobody", "replay": "open_loop",
                  "only": "executed", "propose": "state", "name": "mine", "priority": "high"}  # fmt: skip
        sent = site.client.post("/dreams/new", data=values, follow_redirects=False)
        assert sent.status_code == 303, sent.text
        asked = dreams.asked_of(job_of(site.database, sent.headers["location"].rpartition("/")[2]))
        assert (asked.tasks, asked.held_out, asked.seed, asked.steps) == (TASKS, True, 9, 4)
        assert (asked.replay, asked.only) == ("open_loop", "executed")
        again = page(site, f"/dreams/new?source={sent.headers['location'].rpartition('/')[2]}")
        assert f'value="{", ".join(TASKS)}"' in again
        wrong = site.client.post("/dreams/new", data={**values, "video": "../up", "name": "kept"})
        assert wrong.status_code == 422
        assert 'value="../up"' in wrong.text
        assert 'value="kept"' in wrong.text


# --- requests and models ----------------------------------------------------------------------------------------------


def test_requests_are_checked_at_the_door(tmp_path: Path) -> None:
    with open_site(tmp_path, max_attempts=100) as site:
        for change, status, code in (
            ({"video": "../secrets"}, 422, ""),
            ({"video": "/etc"}, 422, ""),
            ({"video": "a//b"}, 422, ""),
            ({"tasks": []}, 422, ""),
            ({"dataset": "ds_1"}, 422, ""),
            ({"tasks": ["tabletop/red_cub"]}, 422, ""),
            ({"variant": "D9"}, 422, "unknown_variant"),
            ({"tasks": [], "dataset": "ds_1"}, 422, "unknown_dataset"),
            ({"classifier": "mine"}, 422, ""),
            ({"frames": 51}, 422, "too_many_attempts"),
        ):
            problem(site.client.post("/v1/dreams", json={**SMALL, **change}), status, code)
        named = {"Idempotency-Key": "once"}
        first, again = (site.client.post("/v1/dreams", json=SMALL, headers=named) for _ in range(2))
        assert first.json()["id"] == again.json()["id"]
        assert again.headers["Idempotency-Replayed"] == "true"
        problem(site.client.post("/v1/dreams", json={**SMALL, "seed": 1}, headers=named), 422, "idempotency_key_reused")
        asked = first.json()["reproduce"]["request"]
        assert site.client.post("/v1/dreams", json=asked).json()["spec_sha256"] == first.json()["spec_sha256"]
        assert [job["purpose"] for job in site.get("/v1/jobs?purpose=dream")["data"]] == ["dream", "dream"]


def test_a_typed_client_asks_for_dreams(tmp_path: Path) -> None:
    with open_site(tmp_path) as site, on_a_port(site.app) as url, Client(url) as client:
        job = client.create_dreams(**SMALL)
        assert job.dreams is not None
        assert (job.dreams.stage, job.dreams.stages[-1]) == ("prepare", "export")
        assert client.cancel(job.id).status == "cancelled"
        with pytest.raises(ServiceError, match="video"):
            client.create_dreams(**{**SMALL, "video": ".."})


def test_no_model_lies_outside_the_folder_of_models(tmp_path: Path) -> None:
    root, outside = tmp_path / "models", tmp_path / "outside"
    for folder in (root / "mine", outside):
        folder.mkdir(parents=True)
    (root / "link").symlink_to(outside)
    given = {"FACTORY_MODELS": str(root)}
    assert model_folder(given, "video", "mine") == root / "mine"
    for name in ("link", "..", "../outside", "mine/../../outside", "/etc", "", "."):
        with pytest.raises(SpecError, match="does not lie below"):
            model_folder(given, "video", name)
    with pytest.raises(SpecError, match="train-idm"):
        model_folder(given, "idm", "none")
    with pytest.raises(SpecError, match="FACTORY_MODELS"):
        model_folder({}, "video", "mine")
    endpoint = DreamSpec(tasks=TASKS, video="mine", judge="endpoint")
    with pytest.raises(SpecError, match="FACTORY_LLM_URL"):
        check_models(given, endpoint)
    shipped_judge = DreamSpec(tasks=TASKS, video="mine", judge="classifier")
    usual = {kind: shipped(name) for kind, name in USUAL.items()}
    assert check_models(given, shipped_judge) == {**usual, "video": root / "mine"}
    bare = DreamSpec(tasks=TASKS)
    assert check_models({}, bare) == {"video": shipped(VIDEO), "idm": shipped(IDM)}, "without any folder of models"
    assert check_models({}, replace(bare, video=VIDEO)) == check_models({}, bare)
    (root / VIDEO).mkdir()
    assert model_folder(given, "video", VIDEO) == root / VIDEO, "a folder of the installation's own comes first"
    with pytest.raises(SpecError, match="judges nothing"):
        DreamSpec(tasks=TASKS, video="mine", classifier="mine")


def test_a_run_in_another_store_is_carried_from_stage_to_stage(tmp_path: Path) -> None:
    store = Store(f"memory://{tmp_path.name}")
    with lent_run(store, "job_1", "frames", (), None) as run:
        (run.frames / "frame-1").mkdir(parents=True)
        (run.frames / "frame-1" / "frame.json").write_text("{}")
    with lent_run(store, "job_1", "generate", ("dream-00000",), None) as run:
        assert (run.frames / "frame-1" / "frame.json").read_text() == "{}"
    with lent_run(store, "job_1", "frames", (), None) as run:
        assert not run.frames.exists(), "what an unfinished unit of the same stage put is not read"
