"""Laws of workers that pull over HTTP: whatever dies or breaks, nothing is lost or counts twice, the digest stays.

The service, the machines and their workers are real processes. Where the system lets us, each machine has a network of
its own, from which nothing but one end of a bad line can be reached.
"""

from __future__ import annotations

import hashlib
import random
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from api import blobs, jobs, keys, leases, wire
from api.tables import Attempt, Dispatcher, Event, Job, Unit, Worker
from factory.dataset_reading import dataset_digest
from factory.durable import sha256_file
from factory.episodes import EPISODE_FILE, read_document, write_shard
from factory.specs import GenerationSpec, RenderSpec
from tests import chaos, pull_site, tower
from tests.pull_site import PullSite
from tests.site import Site, bearer, open_site, problem
from tests.synthetic import make_episode
from workers import generate as generating

SPOKEN = {wire.PROTOCOL_HEADER: str(wire.PROTOCOL), wire.VERSION_HEADER: wire.version()}
EXECUTOR = {"backend": "stub", "control_mode": "none", "model_sha": hashlib.sha256(b"<mujoco/>").hexdigest()}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with open_site(tmp_path) as site:
        yield site


class Remote:
    """A machine as its requests, for what a sound one never sends."""

    def __init__(self, site: Site, headers: dict[str, str] | None = None) -> None:
        self.site, self.headers = site, {**SPOKEN, **(headers or {})}
        self.owner = self.post(":join", host="box").json()["owner"]

    def post(self, verb: str, **body: Any) -> Any:
        if verb != ":join":
            body = {"owner": self.owner, **body}
        return self.site.client.post(f"/v1/leases{verb}", json=body, headers=self.headers)

    def lease(self, *, sizes: dict[str, int] | None = None, **slot: Any) -> list[dict[str, Any]]:
        wish = {"worker": f"{self.owner}.1", "capabilities": ["simulate"], **slot}
        answer = self.post("", slots=[wish], sizes=sizes or {})
        assert answer.status_code == 200, answer.text
        return answer.json()["given"]

    def put(self, job_id: str, sha256: str, content: bytes, start: int = 0, whole: int | None = None) -> Any:
        size = f"bytes {start}-{start + len(content) - 1}/{len(content) if whole is None else whole}"
        url = f"/v1/blobs/{job_id}/{sha256}?owner={self.owner}"
        return self.site.client.put(url, content=content, headers={**self.headers, "Content-Range": size})

    def send(self, job_id: str, path: Path) -> str:
        sha256 = sha256_file(path)
        answer = self.put(job_id, sha256, path.read_bytes())
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"offset": path.stat().st_size, "complete": True}
        return sha256

    def commit(self, *answers: dict[str, Any], deaths: tuple[dict[str, Any], ...] = ()) -> Any:
        return self.post(":commit", answers=list(answers), deaths=list(deaths))

    def opened(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"said": "opened", **_lease(given), "job_id": given["job_id"], "executor": EXECUTOR}

    def attempt(self, given: dict[str, Any], index: int, shard_sha256: str = "", **changes: Any) -> dict[str, Any]:
        outcome = {"outcome": "success", "held": True} if shard_sha256 else {"outcome": "failure", "reason": "dropped"}
        about = {"job_id": given["job_id"], "index": index, "worker": f"{self.owner}.1", "shard_sha256": shard_sha256}
        return {"said": "attempt", **_lease(given), **outcome, **about, **changes}


def _lease(given: dict[str, Any]) -> dict[str, int]:
    return {"unit": given["unit"], "epoch": given["epoch"]}


def a_shard(folder: Path, index: int) -> Path:
    return write_shard(folder, replace(make_episode(index), success=True))


# --- versions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "version", "advice"),
    [
        ("2", wire.version(), "upgrade the service"),
        ("0", wire.version(), "upgrade the worker with pip install"),
        (str(wire.PROTOCOL), "99.0.0", "upgrade the service to 99.0.0"),
        (str(wire.PROTOCOL), "0.0.9", f"trajectory-factory=={wire.version()}"),
    ],
)
def test_a_worker_of_another_version_is_told_what_to_upgrade(
    site: Site, protocol: str, version: str, advice: str
) -> None:
    other = {wire.PROTOCOL_HEADER: protocol, wire.VERSION_HEADER: version}
    for path in ("/v1/leases:join", "/v1/leases", "/v1/leases:commit"):
        said = problem(site.client.post(path, json={"new": 1}, headers=other), 426, "other_protocol")
        assert advice in said["detail"]
        assert str(protocol) in said["detail"]
        assert version in said["detail"]


def test_a_worker_refuses_a_service_of_another_version() -> None:
    own, patch = (wire.PROTOCOL, "1.4.0"), (wire.PROTOCOL, "1.4.7")
    assert wire.misfit(worker=own, service=own) == wire.misfit(worker=own, service=patch) == ""
    assert "upgrade the worker" in wire.misfit(worker=own, service=(wire.PROTOCOL, "1.5.0"))
    assert "upgrade the service" in wire.misfit(worker=own, service=(wire.PROTOCOL - 1, "1.4.0"))


# --- leases -----------------------------------------------------------------------------------------------------------


def test_isaac_attempts_wait_for_a_machine_that_has_it(site: Site) -> None:
    job = site.job(attempts=4)
    with site.database.transaction() as session:
        row = jobs.get(session, job["id"])
        row.spec = {**row.spec, "backend": "isaaclab"}
        session.add(row)
    with site.database.transaction() as session:
        local = leases.lease(session, owner="d", worker="w", capabilities=["simulate", "render", "write", "gpu"])
    assert local is None
    remote = Remote(site)
    assert remote.lease(capabilities=["simulate", "render"]) == []
    (given,) = remote.lease(capabilities=["isaac"])
    assert (given["job_id"], given["indices"]) == (job["id"], [0])


def test_a_lease_is_as_long_as_the_machine_is_fast_and_leaves_others_their_share(site: Site) -> None:
    job, remote = site.job(attempts=1000), Remote(site)
    (first,) = remote.lease()
    assert first["indices"] == [0]
    (second,) = remote.lease(sizes={job["id"]: 40})
    assert second["indices"] == list(range(1, 41))
    workers = [{"worker": f"{remote.owner}.{i}", "pid": i, "capabilities": ["simulate"]} for i in range(50)]
    holds = [_lease(first), _lease(second)]
    assert remote.post(":heartbeat", host="box", holds=holds, workers=workers).json() == {"lost": []}
    (third,) = remote.lease(sizes={job["id"]: 500})
    assert len(third["indices"]) == 1000 // (leases.AHEAD * 50)


def test_what_a_machine_does_not_name_is_given_to_others(site: Site) -> None:
    site.job(attempts=4)
    remote, other = Remote(site), Remote(site)
    (given,) = remote.lease()
    held = [_lease(given)]
    assert remote.post(":heartbeat", host="box", holds=held).json() == {"lost": []}
    assert remote.post(":heartbeat", host="box", holds=[]).json() == {"lost": []}
    (again,) = other.lease()
    assert (again["unit"], again["indices"]) == (given["unit"], given["indices"])
    assert again["epoch"] > given["epoch"]
    assert remote.post(":heartbeat", host="box", holds=held).json() == {"lost": [given["unit"]]}
    assert remote.commit(remote.attempt(given, given["indices"][0])).json()["lost"] == [given["unit"]]
    with site.database.reading() as session:
        assert session.exec(select(Attempt)).all() == []


def test_a_machine_that_leaves_gives_everything_back(site: Site) -> None:
    site.job(attempts=4)
    remote = Remote(site)
    given = remote.lease(room=2)
    assert len(given) == 2
    assert remote.post(":leave").status_code == 204
    with site.database.reading() as session:
        assert {unit.state for unit in session.exec(select(Unit))} == {"waiting"}
        assert session.exec(select(Worker)).all() == session.exec(select(Dispatcher)).all() == []


def test_a_dispatcher_of_the_same_host_leaves_machines_that_pull_alone(site: Site) -> None:
    site.job(attempts=4)
    remote = Remote(site)
    (given,) = remote.lease()
    with site.database.transaction() as session:
        session.get(Dispatcher, remote.owner).host = socket.gethostname()
        session.flush()
        assert leases.register(session, "disp_new", transport="local") == 0
    assert remote.commit(remote.attempt(given, 0)).json() == {"committed": 1, "lost": [], "unlike": [], "ended": []}


def test_a_machine_that_cannot_do_a_job_does_not_end_it(site: Site) -> None:
    job, remote = site.job(attempts=4), Remote(site)
    (given,) = remote.lease()
    unable = {"said": "unable", **_lease(given), "message": "no simulator is installed"}
    assert remote.commit(unable).status_code == 200
    assert remote.lease(avoid=[job["id"]]) == []
    (again,) = remote.lease()
    assert again["indices"] == given["indices"]
    with site.database.reading() as session:
        told = session.exec(select(Event).where(Event.type == "worker.unable")).one()
        assert told.data == {"message": "no simulator is installed"}
        assert session.get(Job, job["id"]).status == "running"


def test_three_deaths_at_one_attempt_make_it_poison(site: Site) -> None:
    job, remote = site.job(attempts=2), Remote(site)
    for number in range(leases.STRIKES):
        (given,) = remote.lease()
        assert given["indices"] == [0]
        death = {**_lease(given), "worker": f"{remote.owner}.{number}", "at_index": 0, "how": "killed by SIGSEGV"}
        assert remote.commit(deaths=(death,)).status_code == 200
        assert remote.commit(deaths=(death,)).status_code == 200  # said twice, counted once
    with site.database.reading() as session:
        (attempt,) = session.exec(select(Attempt).where(Attempt.job_id == job["id"])).all()
    assert (attempt.idx, attempt.reason) == (0, "infra_poison")


# --- files ------------------------------------------------------------------------------------------------------------


def test_an_attempt_counts_when_its_files_are_there_and_only_then(site: Site, tmp_path: Path) -> None:
    job, remote = site.job(attempts=3), Remote(site)
    (given,) = remote.lease(sizes={job["id"]: 3})
    shard = a_shard(tmp_path, 0)
    document, name = sha256_file(shard / EPISODE_FILE), EPISODE_FILE
    answer = remote.attempt(given, 0, document)
    assert problem(remote.commit(answer), 409, "missing_blobs")["found"] == [document]
    remote.send(job["id"], shard / name)
    files = read_document(shard)["files"]
    assert sorted(problem(remote.commit(answer), 409, "missing_blobs")["found"]) == sorted(files.values())
    with site.database.reading() as session:
        assert session.exec(select(Attempt)).all() == []
    for other in files:
        remote.send(job["id"], shard / other)
    assert remote.commit(answer).json()["committed"] == 1
    stored = site.store.path(blobs.shard_key(job["id"], 0))
    assert stored is not None
    assert {p.name: p.read_bytes() for p in stored.iterdir()} == {p.name: p.read_bytes() for p in shard.iterdir()}
    assert remote.commit(answer).json()["committed"] == 0  # said twice
    with site.database.reading() as session:
        assert session.get(Job, job["id"]).attempted == 1
    assert not [p for p in (site.settings.data / "blobs").rglob("*") if p.is_file()]


def test_what_is_answered_under_an_earlier_lease_of_the_same_machine_changes_nothing(
    site: Site, tmp_path: Path
) -> None:
    """Not even files: whoever holds the later lease may be writing this very episode."""
    job, remote = site.job(attempts=1), Remote(site)
    (before,) = remote.lease()
    remote.post(":heartbeat", host="box", holds=[])
    (again,) = remote.lease()
    assert (again["unit"], again["epoch"] > before["epoch"]) == (before["unit"], True)
    shard = a_shard(tmp_path, 0)
    sent = {path.name: remote.send(job["id"], path) for path in shard.iterdir()}
    late = remote.commit(remote.attempt(before, 0, sent[EPISODE_FILE])).json()
    assert (late["committed"], late["lost"]) == (0, [before["unit"]])
    assert not site.store.exists(blobs.shard_key(job["id"], 0))
    assert remote.commit(remote.attempt(again, 0, sent[EPISODE_FILE])).json()["committed"] == 1


def test_a_success_without_a_shard_is_none(site: Site) -> None:
    site.job(attempts=3)
    remote = Remote(site)
    (given,) = remote.lease()
    claim = remote.attempt(given, 0) | {"outcome": "success", "reason": "", "held": True}
    assert "names no shard" in problem(remote.commit(claim), 422)["detail"]


@pytest.mark.parametrize("wrong", ["index", "outcome", "bytes"])
def test_a_shard_of_something_else_is_refused(site: Site, tmp_path: Path, wrong: str) -> None:
    job, remote = site.job(attempts=3), Remote(site)
    (given,) = remote.lease(sizes={job["id"]: 3})
    shard = a_shard(tmp_path, 1 if wrong == "index" else 0)
    if wrong == "bytes":
        (shard / EPISODE_FILE).write_bytes((shard / EPISODE_FILE).read_bytes().replace(b'"rows":6', b'"rows":7'))
    sent = {path.name: remote.send(job["id"], path) for path in sorted(shard.iterdir())}
    answer = remote.attempt(given, 0, sent[EPISODE_FILE])
    if wrong == "outcome":
        answer |= {"outcome": "failure", "reason": "dropped", "held": False}
    problem(remote.commit(answer), 422, "bad_shard")
    with site.database.reading() as session:
        assert session.exec(select(Attempt)).all() == []
    assert not site.store.exists(blobs.shard_key(job["id"], 0))


def test_a_file_goes_on_where_it_broke_off_also_after_a_restart(tmp_path: Path) -> None:
    content = random.Random(5).randbytes(300_000)  # noqa: S311
    sha256 = hashlib.sha256(content).hexdigest()
    with open_site(tmp_path) as site:
        job, remote = site.job(attempts=3), Remote(site)
        assert remote.lease()
        assert remote.put(job["id"], sha256, content[:100_000], whole=300_000).json()["offset"] == 100_000
        gap = remote.put(job["id"], sha256, content[200_000:], start=200_000, whole=300_000)
        assert problem(gap, 409, "wrong_offset")["found"] == 100_000
    with open_site(tmp_path) as site:
        remote.site = site
        url = f"/v1/blobs/{job['id']}/{sha256}?owner={remote.owner}"
        head = site.client.head(url, headers=remote.headers)
        assert (head.headers["Upload-Offset"], head.headers["Upload-Complete"]) == ("100000", "?0")
        again = remote.put(job["id"], sha256, content[50_000:100_000], start=50_000, whole=300_000)
        assert again.json() == {"offset": 100_000, "complete": False}  # said twice
        rest = remote.put(job["id"], sha256, content[100_000:], start=100_000, whole=300_000)
        assert rest.json() == {"offset": 300_000, "complete": True}
        assert (site.settings.data / "blobs" / job["id"] / sha256).read_bytes() == content


def test_a_file_is_finished_whose_service_was_killed_before_it_noticed_the_end(site: Site) -> None:
    job, remote = site.job(attempts=3), Remote(site)
    assert remote.lease()
    content, sha256 = b"0123456789", hashlib.sha256(b"0123456789").hexdigest()
    folder = site.settings.data / "blobs" / job["id"]
    folder.mkdir(parents=True)
    (folder / f"{sha256}.part").write_bytes(content)
    assert remote.put(job["id"], sha256, content[6:], start=6, whole=10).json() == {"offset": 10, "complete": True}
    other = hashlib.sha256(b"abcdefghij").hexdigest()
    (folder / f"{other}.part").write_bytes(b"abcde")
    rest = remote.put(job["id"], other, b"defghij", start=3, whole=10)  # begins within what is there
    assert rest.json() == {"offset": 10, "complete": True}
    assert (folder / other).read_bytes() == b"abcdefghij"


def test_a_file_with_another_hash_is_thrown_away(site: Site) -> None:
    job, remote = site.job(attempts=3), Remote(site)
    assert remote.lease()
    said = hashlib.sha256(b"something else").hexdigest()
    problem(remote.put(job["id"], said, b"something"), 422, "wrong_hash")
    assert list((site.settings.data / "blobs" / job["id"]).iterdir()) == []


def test_only_who_holds_a_lease_of_a_job_sends_or_reads_its_files(site: Site) -> None:
    mine, foreign = site.job(attempts=1), site.job(attempts=1, seed=4)
    remote = Remote(site)
    (given,) = remote.lease()
    assert given["job_id"] == mine["id"]
    sha256 = hashlib.sha256(b"x").hexdigest()
    problem(remote.put(foreign["id"], sha256, b"x"), 409, "not_held")
    source = given["payload"]["spec"]["sources"][0]["sha256"]
    get = {"headers": remote.headers}
    owner = f"owner={remote.owner}"
    assert site.client.get(f"/v1/blobs/{mine['id']}/sources/{source}?{owner}", **get).status_code == 200
    problem(site.client.get(f"/v1/blobs/{foreign['id']}/sources/{source}?{owner}", **get), 409, "not_held")
    problem(site.client.get(f"/v1/blobs/{mine['id']}/sources/{sha256}?{owner}", **get), 404)
    for path in ("..", "%2e%2e", "a%2fb", ".."):
        assert remote.put(path, sha256, b"x").status_code in (404, 405, 422)
    assert not (site.settings.data / "blobs" / foreign["id"]).exists()


def test_bounds_of_a_file_are_kept(tmp_path: Path) -> None:
    with open_site(tmp_path, max_upload_bytes=1000, max_body_bytes=5000) as site:
        job, remote = site.job(attempts=3), Remote(site)
        assert remote.lease()
        sha256 = hashlib.sha256(b"x").hexdigest()
        problem(remote.put(job["id"], sha256, b"x" * 100, whole=1001), 413, "file_too_large")
        problem(remote.put(job["id"], sha256, b"x" * 6000, whole=10**12), 413)
        wrong = {**remote.headers, "Content-Range": "bytes 0-9/20"}
        answer = site.client.put(f"/v1/blobs/{job['id']}/{sha256}?owner={remote.owner}", content=b"x", headers=wrong)
        problem(answer, 422, "bad_range")
        assert not list((site.settings.data / "blobs").rglob("*.part"))


def test_a_machine_speaks_for_its_own_key_alone(site: Site) -> None:
    with site.database.transaction() as session:
        secrets = [keys.create_key(session, name=f"box {i}", scopes=["worker"])[1] for i in range(2)]
        _, admin = keys.create_key(session, name="admin", scopes=["read", "write", "admin"])
    asked = {"task": "stack", "attempts": 4, "render": None}
    assert site.client.post("/v1/jobs", json=asked, headers=bearer(admin)).status_code == 201
    mine, other = (Remote(site, bearer(secret)) for secret in secrets)
    (given,) = mine.lease()
    thief = Remote(site, bearer(secrets[1]))
    thief.owner = mine.owner
    problem(thief.commit(thief.attempt(given, 0)), 403, "foreign_owner")
    problem(thief.put(given["job_id"], "0" * 64, b"x"), 403, "foreign_owner")
    assert other.commit(other.attempt(given, 0)).json()["lost"] == [given["unit"]]
    problem(site.client.post("/v1/leases:join", json={"host": "x"}, headers={**SPOKEN, **bearer(admin)}), 403)


def test_the_scene_is_sent_once_and_the_first_executor_decides(site: Site, tmp_path: Path) -> None:
    job, remote = site.job(attempts=8), Remote(site)
    (given,) = remote.lease()
    assert problem(remote.commit(remote.opened(given)), 409, "missing_blobs")["found"] == [EXECUTOR["model_sha"]]
    assert remote.put(job["id"], EXECUTOR["model_sha"], b"<mujoco/>").status_code == 200
    assert remote.commit(remote.opened(given)).json()["unlike"] == []
    assert b"".join(site.store.read(f"jobs/{job['id']}/models/{EXECUTOR['model_sha']}.xml")) == b"<mujoco/>"
    other = Remote(site)
    (second,) = other.lease()
    unlike = other.opened(second) | {"executor": {**EXECUTOR, "python": "3.9"}}
    assert other.commit(unlike).json()["unlike"] == [second["unit"]]


# --- real machines ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> chaos.Reference:
    demos = tower.write_demonstrations(tmp_path_factory.mktemp("demos") / "towers.hdf5")
    finished = tower.make(tmp_path_factory.mktemp("reference") / "alone", demos, episodes=8)
    return chaos.Reference(demos=demos, digest=dataset_digest(finished.root), attempts=finished.attempts)


def running(site: PullSite, job_id: str, attempts: int) -> None:
    """Wait until so many attempts are in the book."""

    def enough() -> bool:
        site.restart()
        return site.attempted(job_id) >= attempts

    chaos.wait_for(enough, f"{attempts} attempts; {site.said()[-3000:]}", 120.0)


def assert_pulled(site: PullSite, job_id: str) -> None:
    """Nobody but machines that pull made attempts, and nothing they sent is left lying about."""
    with site.book.reading() as session:
        workers = set(session.exec(select(Attempt.worker).where(Attempt.job_id == job_id)))
    assert workers
    assert all(name.startswith("pull_") for name in workers), workers
    sent = site.data / "blobs" / job_id
    chaos.wait_for(lambda: not sent.exists() or not any(sent.iterdir()), "what was sent to be tidied up", 30.0)


@pytest.mark.slow
def test_two_machines_over_a_bad_line_make_what_one_executor_makes(
    towers: chaos.Reference, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A worker and the service are killed on the way; three machines and more kills are in the slow form below."""
    with pull_site.opened(tmp_path / "site") as site:
        site.serve()
        chaos.wait_for(site.healthy, "the service", 60.0)
        job_id = site.enter(towers.demos, episodes=8)
        with pull_site.places(2, site.port, delay_s=0.01, seed=chaos.seed_of(request)) as places:
            for place in places:
                site.lend(place.url, inside=place.inside)
            running(site, job_id, 2)
            chaos.kill(site.victims("worker")[0])
            chaos.kill(site.victims("server")[0])
            assert site.ended(job_id).status == "succeeded"
            assert_pulled(site, job_id)
        chaos.assert_sound(site, job_id, towers.digest)


@pytest.mark.slow
def test_a_machine_that_is_told_to_end_gives_back_what_it_holds(towers: chaos.Reference, tmp_path: Path) -> None:
    with pull_site.opened(tmp_path / "site") as site:
        site.serve()
        chaos.wait_for(site.healthy, "the service", 60.0)
        job_id = site.enter(towers.demos, episodes=60)
        site.lend(f"http://127.0.0.1:{site.port}", options=["--json"])
        running(site, job_id, 3)
        (machine,) = site.victims("machine")
        chaos.kill(machine, signal.SIGINT)
        process = site.machines.pop().process
        assert process is not None
        assert process.wait(30) == 0, site.said()[-3000:]
        with site.book.reading() as session:
            held = session.exec(select(Unit).where(Unit.job_id == job_id, Unit.state == "leased")).all()
            owners = session.exec(select(Dispatcher).where(Dispatcher.transport == leases.PULLED)).all()
        assert held == owners == []
        said = [line for line in site.said().splitlines() if '"attempts":' in line]
        assert int(said[-1].split(":")[1].strip(" ,")) == site.attempted(job_id)


def lift(out: Path, **changes: Any) -> generating.Request:
    asked = {"episodes": 40, "render": None, **changes}
    return generating.Request(task="lift", out=out, generation=GenerationSpec(seed=5), **asked)


@pytest.fixture(scope="module")
def lifted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of what one executor alone makes."""
    request = lift(tmp_path_factory.mktemp("lift") / "alone")
    return dataset_digest(generating.generate(request, workers=1, watcher=tower.Watcher()).root)


@pytest.mark.slow
@pytest.mark.sim
def test_whatever_is_killed_and_cut_the_episodes_are_the_same(
    lifted: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Physical attempts of three machines in networks of their own: delays, cut connections, kills without warning."""
    seed = chaos.seed_of(request)
    with pull_site.opened(tmp_path / "site") as site:
        site.serve()
        chaos.wait_for(site.healthy, "the service", 60.0)
        job_id = site.enter_request(lift(tmp_path / "unused"))
        with pull_site.places(3, site.port, delay_s=0.04, cut=0.02, seed=seed) as places:
            for place in places:
                site.lend(place.url, inside=place.inside, options=["--batch-s", "2"])
            running(site, job_id, 3)
            toll = chaos.storm(
                site,
                job_id,
                kills=12,
                seed=seed,
                roles=("worker", "machine", "server", "server", "dispatcher"),
                pause_s=(0.5, 4.0),
                measured=0.0,
            )
            assert site.ended(job_id, 400.0).status == "succeeded"
            assert_pulled(site, job_id)
            cuts, carried = sum(place.wire.cuts for place in places), sum(place.wire.carried for place in places)
        print(f"{toll.facts()}, {cuts} connections cut, {carried} bytes carried")  # noqa: T201
        assert toll.total >= 5
        assert cuts >= 3
        chaos.assert_sound(site, job_id, lifted)


@pytest.mark.slow
@pytest.mark.sim
def test_pictures_drawn_far_away_are_the_same(tmp_path: Path) -> None:
    """One machine makes the attempts, another one fetches them and draws."""
    look = RenderSpec(cameras=("agentview",), width=64, height=64, preset="fast")
    request = lift(tmp_path / "alone", episodes=2, render=look)
    alone = dataset_digest(generating.generate(request, workers=1, watcher=tower.Watcher()).root)
    with pull_site.opened(tmp_path / "site") as site:
        site.serve()
        chaos.wait_for(site.healthy, "the service", 60.0)
        job_id = site.enter_request(request)
        for capability in ("simulate", "render"):
            site.lend(f"http://127.0.0.1:{site.port}", options=["--capability", capability])
        assert site.ended(job_id, 300.0).status == "succeeded"
        chaos.assert_sound(site, job_id, alone)
        assert_pulled(site, job_id)


@pytest.mark.slow
@pytest.mark.sim
def test_local_ray_and_two_machines_share_a_job(lifted: str, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="install the extra: pip install -e '.[ray]'")
    with pull_site.opened(tmp_path / "site") as site:
        site.serve(writer=False)
        chaos.wait_for(site.healthy, "the service", 60.0)
        for _ in range(2):
            site.lend(f"http://127.0.0.1:{site.port}")
        shared = [
            site.run("dispatch", *site.place(), "--executor", kind, "--workers", "1") for kind in ("local", "ray")
        ]

        def kinds() -> set[str]:
            with site.book.reading() as session:
                rows = session.exec(select(Worker)).all()
            return {row.transport + ("" if row.transport != "http" else row.owner) for row in rows if row.seen_at}

        chaos.wait_for(lambda: len(kinds()) >= 4, f"all four; {site.said()[-2000:]}", 120.0)
        job_id = site.enter_request(lift(tmp_path / "unused"))
        chaos.wait_for(lambda: site.job(job_id).status in jobs.FINAL, site.story(job_id), 300.0)
        chaos.assert_sound(site, job_id, lifted)
        with site.book.reading() as session:
            names = session.exec(select(Attempt.worker).where(Attempt.job_id == job_id)).all()
        makers = {name.partition("-")[0] if not name.startswith("pull_") else name.partition(".")[0] for name in names}
        print({maker: sum(name.startswith(maker) for name in names) for maker in makers})  # noqa: T201
        assert len(makers) == 4, makers
        for process in shared:
            process.terminate()
            process.wait(60)
