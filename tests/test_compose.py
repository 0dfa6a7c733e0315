"""docker-compose.yml and the images: what a machine without a container engine can know about them."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
PROFILES: list[tuple[str, ...]] = [(), ("gpu",), ("mllm",), ("gpu", "mllm"), ("isaac",), ("*",)]
BESIDES = {"gpu": {"ray-worker-gpu", "ray-worker-dream"}, "mllm": {"mllm"}, "isaac": {"isaac-worker"}}
STANDARD = {"init", "postgres", "migrate", "first-key", "api", "dispatcher", "ray-head", "ray-worker-sim"}
VARIABLE = re.compile(r"\$\{([A-Z_]+)(?::?[-?]([^}]*))?\}")

Rendered = dict[str, Any]


# --- the rendered file ------------------------------------------------------------------------------------------------


def _compose() -> list[str] | None:
    """Return how to call Docker Compose v2: Docker's plugin, or the program that docker/compose-cli.sh fetches."""
    for call in (["docker", "compose"], [str(Path(sys.prefix) / "bin" / "docker-compose")], ["docker-compose"]):
        if shutil.which(call[0]):
            answer = subprocess.run([*call, "version", "--short"], capture_output=True, text=True, check=False)
            if answer.returncode == 0 and answer.stdout.strip().lstrip("v") >= "2":
                return call
    return None


def _config(profiles: tuple[str, ...], *, env: dict[str, str] | None = None) -> Rendered:
    call = _compose()
    if call is None:
        pytest.skip("no Docker Compose v2 here; `bash docker/compose-cli.sh` fetches it")
    chosen = [word for profile in profiles for word in ("--profile", profile)]
    clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    answer = subprocess.run(
        [*call, "--file", str(COMPOSE), "--env-file", os.devnull, *chosen, "config", "--format", "json"],
        capture_output=True, text=True, check=False, cwd=ROOT, env={**clean, **(env or {})},
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def _parsed() -> Rendered:
    """Return the file with its defaults filled in by ourselves: for the rules, where there is no Docker Compose."""
    parsed = yaml.safe_load(VARIABLE.sub(lambda found: found[2] or "", COMPOSE.read_text()))
    return json.loads(json.dumps(parsed))  # services that share an anchor share it no more


# --- the rules --------------------------------------------------------------------------------------------------------


def complaints(compose: Rendered) -> Iterator[str]:
    """Yield one sentence for each rule that a service breaks, beginning with the rule's name."""
    for name, service in compose["services"].items():
        for rule, broken in _RULES.items():
            if said := broken(name, service, compose):
                yield f"{rule}: {name}: {said}"


def _ports(name: str, service: Rendered, _: Rendered) -> str:
    ports = service.get("ports", [])
    if ports and name != "api":
        return "only api may publish a port"
    return next((f"{port}" for port in ports if port.get("host_ip") != "127.0.0.1"), "")


def _health(_: str, service: Rendered, __: Rendered) -> str:
    once = service.get("restart") == "no"
    check = service.get("healthcheck", {})
    if not once and (check.get("disable") or not check.get("test")):
        return "has no health check and is no one-shot"
    test = check.get("test", [])
    return "ray health-check hangs on a dead head" if "health-check" in test and "timeout" not in test else ""


def _user(_: str, service: Rendered, __: Rendered) -> str:
    user = str(service.get("user", "0"))
    return f"user {user}" if user.partition(":")[0] in {"0", "root"} else ""


def _contained(_: str, service: Rendered, __: Rendered) -> str:
    wanted = {
        "cap_drop ALL": service.get("cap_drop") == ["ALL"] and not service.get("cap_add"),
        "no-new-privileges": "no-new-privileges:true" in service.get("security_opt", []),
        "no privileges": not service.get("privileged") and not service.get("pid") and not service.get("ipc"),
        "own network": service.get("network_mode", "none") == "none",
        "read-only root": service.get("read_only") is True,
        "a memory limit": bool(service.get("mem_limit")),
        "a limit of processes": bool(service.get("pids_limit")),
    }
    return ", ".join(what for what, holds in wanted.items() if not holds)


def _image(_: str, service: Rendered, __: Rendered) -> str:
    image = service.get("image", "")
    exact = re.fullmatch(r"[a-z0-9./-]+:(v?\d+\.\d+[\w.-]*)(@sha256:[0-9a-f]{64})?", image)
    return "" if exact else f"image {image!r} names no exact version"


def _base(_: str, service: Rendered, compose: Rendered) -> str:
    bases = {
        other["build"]["args"]["BASE_IMAGE"]
        for other in compose["services"].values()
        if isinstance(other.get("build"), dict)
    }
    return f"{len(bases)} base images; Ray refuses two Python patches in one cluster" if len(bases) > 1 else ""


def _networks(name: str, service: Rendered, compose: Rendered) -> str:
    inside = name in ("postgres", "dispatcher", "mllm") or name.startswith("ray-")
    networks = service.get("networks") or ["default"] if "network_mode" not in service else []
    open_ones = [each for each in networks if not (compose["networks"].get(each) or {}).get("internal")]
    return f"stands on {', '.join(open_ones)}, which lead outside" if inside and open_ones else ""


def _ray(_: str, service: Rendered, __: Rendered) -> str:
    if not any(str(word).startswith("ray-node") for word in service.get("command") or []):
        return ""
    environment = service.get("environment", {})
    wanted = {
        "RAY_AUTH_MODE=token": environment.get("RAY_AUTH_MODE") == "token",
        "RAY_AUTH_TOKEN_PATH": environment.get("RAY_AUTH_TOKEN_PATH", "").startswith("/secrets/"),
        "RAY_USAGE_STATS_ENABLED=0": environment.get("RAY_USAGE_STATS_ENABLED") == "0",
        "shm_size": bool(service.get("shm_size")),
    }
    return ", ".join(what for what, holds in wanted.items() if not holds)


def _secrets(_: str, service: Rendered, __: Rendered) -> str:
    secret = re.compile(r"(PASSWORD|TOKEN|SECRET|API_KEY)$")
    found = [each for each in service.get("environment") or {} if secret.search(each)]
    found += [
        f"a password in {each}" for each, value in (service.get("environment") or {}).items()
        if re.search(r"://[^/@]*:[^/@]+@", str(value))
    ]  # fmt: skip
    return f"{', '.join(found)} in the environment; secrets come from files" if found else ""


def _volumes(_: str, service: Rendered, compose: Rendered) -> str:
    mounts = service.get("volumes", [])
    foreign = [
        str(each) for each in mounts if not isinstance(each, dict) or each.get("source") not in compose["volumes"]
    ]
    return f"mounts {', '.join(foreign)} of the host" if foreign else ""


def _gpu(_: str, service: Rendered, __: Rendered) -> str:
    reserved = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices")
    return "reserves a device outside a profile" if reserved and not service.get("profiles") else ""


_RULES: dict[str, Callable[[str, Rendered, Rendered], str]] = {
    "ports": _ports,
    "health": _health,
    "user": _user,
    "contained": _contained,
    "image": _image,
    "base": _base,
    "networks": _networks,
    "ray": _ray,
    "secrets": _secrets,
    "volumes": _volumes,
    "gpu": _gpu,
}


# --- the file keeps them, and each one can be broken ------------------------------------------------------------------


@pytest.mark.parametrize("profiles", PROFILES, ids=lambda profiles: "+".join(profiles) or "standard")
def test_compose_renders_and_keeps_every_rule(profiles):
    rendered = _config(profiles)
    chosen = BESIDES if profiles == ("*",) else profiles
    assert set(rendered["services"]) == STANDARD.union(*(BESIDES[profile] for profile in chosen))
    assert list(complaints(rendered)) == []


def test_the_file_itself_keeps_every_rule():
    parsed = _parsed()
    assert set(parsed["services"]) == STANDARD.union(*BESIDES.values())
    assert list(complaints(parsed)) == []


BREAKS: dict[str, tuple[str, Callable[[Rendered], Any]]] = {
    "postgres publishes": ("ports", lambda s: s["postgres"].update(ports=[{"target": 5432, "host_ip": "127.0.0.1"}])),
    "Ray publishes": ("ports", lambda s: s["ray-head"].update(ports=[{"target": 8265, "host_ip": "127.0.0.1"}])),
    "api on every address": ("ports", lambda s: s["api"]["ports"][0].pop("host_ip")),
    "api on 0.0.0.0": ("ports", lambda s: s["api"]["ports"][0].update(host_ip="0.0.0.0")),  # noqa: S104
    "no health check": ("health", lambda s: s["api"].pop("healthcheck")),
    "health check off": ("health", lambda s: s["api"].update(healthcheck={"disable": True})),
    "a check that hangs": (
        "health",
        lambda s: s["ray-head"].update(healthcheck={"test": ["CMD", "ray", "health-check"]}),
    ),
    "no user": ("user", lambda s: s["api"].pop("user")),
    "user root": ("user", lambda s: s["dispatcher"].update(user="root")),
    "user 0": ("user", lambda s: s["dispatcher"].update(user="0:10001")),
    "capabilities kept": ("contained", lambda s: s["api"].pop("cap_drop")),
    "a capability added": ("contained", lambda s: s["api"].update(cap_add=["NET_ADMIN"])),
    "new privileges": ("contained", lambda s: s["ray-worker-sim"].update(security_opt=[])),
    "privileged": ("contained", lambda s: s["ray-worker-gpu"].update(privileged=True)),
    "the host's network": ("contained", lambda s: s["api"].update(network_mode="host")),
    "writable root": ("contained", lambda s: s["postgres"].update(read_only=False)),
    "memory without limit": ("contained", lambda s: s["ray-worker-sim"].pop("mem_limit")),
    "processes without limit": ("contained", lambda s: s["ray-worker-sim"].pop("pids_limit")),
    "latest": ("image", lambda s: s["postgres"].update(image="postgres:latest")),
    "no tag": ("image", lambda s: s["postgres"].update(image="postgres")),
    "major version only": ("image", lambda s: s["postgres"].update(image="postgres:17")),
    "two Pythons": ("base", lambda s: s["ray-head"]["build"]["args"].update(BASE_IMAGE="python:3.11.14-slim-bookworm")),
    "postgres outside": ("networks", lambda s: s["postgres"].update(networks=["edge"])),
    "Ray outside": ("networks", lambda s: s["ray-worker-sim"].update(networks={"cluster": None, "edge": None})),
    "the language model outside": ("networks", lambda s: s["mllm"].update(networks=["mllm", "edge"])),
    "a language model of any version": ("image", lambda s: s["mllm"].update(image="vllm/vllm-openai:latest")),
    "Ray on the default network": ("networks", lambda s: s["ray-head"].pop("networks")),
    "Ray without token": ("ray", lambda s: s["ray-worker-sim"]["environment"].pop("RAY_AUTH_MODE")),
    "Ray tells": ("ray", lambda s: s["dispatcher"]["environment"].pop("RAY_USAGE_STATS_ENABLED")),
    "little shared memory": ("ray", lambda s: s["ray-head"].pop("shm_size")),
    "a password": ("secrets", lambda s: s["postgres"]["environment"].update(POSTGRES_PASSWORD="x")),  # noqa: S106
    "a password in a URL": (
        "secrets",
        lambda s: s["api"]["environment"].update(FACTORY_DATABASE_URL="postgresql://a:b@p/f"),
    ),
    "a token": ("secrets", lambda s: s["ray-head"]["environment"].update(RAY_AUTH_TOKEN="x")),  # noqa: S106
    "a folder of the host": (
        "volumes",
        lambda s: s["api"]["volumes"].append({"type": "bind", "source": "/var/run/docker.sock", "target": "/s"}),
    ),
    "a GPU for everyone": ("gpu", lambda s: s["ray-worker-gpu"].pop("profiles")),
}


@pytest.mark.parametrize("how", BREAKS)
def test_every_rule_notices_when_it_is_broken(how):
    rule, damage = BREAKS[how]
    broken = copy.deepcopy(_parsed())
    damage(broken["services"])
    assert [said.split(":")[0] for said in complaints(broken) if said.startswith(rule)], f"nobody noticed: {how}"


def test_every_rule_is_broken_once():
    assert {rule for rule, _ in BREAKS.values()} == set(_RULES)


def test_internal_networks_are_internal():
    networks = _parsed()["networks"]
    assert {name for name, network in networks.items() if not (network or {}).get("internal")} == {"edge"}


def test_an_open_network_is_noticed():
    broken = _parsed()
    broken["networks"]["cluster"]["internal"] = False
    assert [said for said in complaints(broken) if said.startswith("networks: ray-head")]


# --- what the file refers to exists -----------------------------------------------------------------------------------


def test_env_example_explains_every_variable_and_no_other():
    used = {found[1] for found in VARIABLE.finditer(COMPOSE.read_text())}
    documented = set(re.findall(r"^# ([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert documented == used | {"COMPOSE_PROFILES"}


def test_env_example_shows_the_defaults():
    shown = dict(re.findall(r"^# (FACTORY_[A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert shown == {found[1]: found[2] for found in VARIABLE.finditer(COMPOSE.read_text())}


def test_variables_reach_the_services():
    environment = {
        "FACTORY_PORT": "9000",
        "FACTORY_SIM_WORKERS": "3",
        "FACTORY_SIM_SLOTS": "5",
        "COMPOSE_PROFILES": "gpu",
    }
    services = _config((), env=environment)["services"]
    assert services["api"]["ports"][0]["published"] == "9000"
    assert services["ray-worker-sim"]["deploy"]["replicas"] == 3
    assert services["ray-worker-sim"]["command"] == ["ray-node", "worker", "5", '{"sim": 5}']
    assert "ray-worker-gpu" in services


def test_images_bear_this_version():
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    images = {service["image"] for service in _parsed()["services"].values() if "build" in service}
    assert images == {
        f"trajectory-factory/{name}:{version[1]}" for name in ("api", "dispatcher", "sim", "dream", "isaac-worker")
    }


def test_commands_exist():
    """Every `factory` command of a service is a command of the command line, with the options it is given."""
    from workers.cli import app

    calls = [service["command"] for service in _parsed()["services"].values() if service.get("command")]
    words = [["dispatch", *call[2:]] if call[:2] == ["ray-node", "dispatch"] else call[1:] for call in calls
             if call[0] == "factory" or call[:2] == ["ray-node", "dispatch"]]  # fmt: skip
    assert len(words) == 4
    for each in words:
        command: Any = typer.main.get_command(app)
        left = list(each)
        while hasattr(command, "commands"):
            assert left[0] in command.commands, f"factory {left[0]}: no such command"
            command = command.commands[left.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in left if word.startswith("--")} <= options


def test_scripts_the_services_call_are_in_their_images():
    for service in _parsed()["services"].values():
        program = (service.get("command") or ["factory"])[0]
        if "build" in service and program != "factory":
            assert f"/usr/local/bin/{program}\n" in (ROOT / service["build"]["dockerfile"]).read_text()


# --- the schema, the Dockerfiles, the scripts -------------------------------------------------------------------------


def _tool(name: str) -> str:
    path = shutil.which(name, path=f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return path or pytest.skip(f"{name} is not installed")


def _run(*call: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in call], capture_output=True, text=True, check=False, cwd=ROOT, env=env)


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("vendor.compose-spec", "docker-compose.yml"),
        ("vendor.github-workflows", ".github/workflows/ci.yml"),
        ("vendor.github-workflows", ".github/workflows/compose.yml"),
    ],
)
def test_schema(schema, file, tmp_path):
    tool = _tool("check-jsonschema")
    answer = _run(tool, "--builtin-schema", schema, file)
    assert answer.returncode == 0, answer.stdout
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(
        (ROOT / file).read_text().replace("    environment:", "    enviroment:").replace("runs-on:", "run-on:")
    )
    assert _run(tool, "--builtin-schema", schema, wrong).returncode != 0


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint(dockerfile):
    answer = _run(_tool("hadolint"), "--no-color", "--config", "docker/hadolint.yaml", dockerfile)
    assert answer.returncode == 0, answer.stdout


def test_images_share_one_base_and_an_unprivileged_user():
    assert [path.stem for path in DOCKERFILES] == ["api", "dispatcher", "dream", "isaac-worker", "sim"]
    assert len({path.read_text().split("ARG BASE_IMAGE=")[1].split("\n")[0] for path in DOCKERFILES}) == 1
    for path in DOCKERFILES:
        last = path.read_text().split("\nFROM ")[-1]
        # Isaac Sim's image has a user of its own, and its caches belong to that one.
        user = "1234:1234" if path.stem == "isaac-worker" else "10001:10001"
        assert f"\nUSER {user}\n" in last
        assert "PIP_CERT" not in last, "what the build needed is no part of the image"


def test_nobody_accepts_the_licence_of_isaac_sim_for_the_user(tmp_path):
    worker = _parsed()["services"]["isaac-worker"]
    assert worker["environment"]["ACCEPT_EULA"] == ""
    assert "ACCEPT_EULA" not in (ROOT / "docker" / "isaac-worker.Dockerfile").read_text()
    started = tmp_path / "started"
    (tmp_path / "python.sh").write_text(f"#!/bin/sh\ntouch {started}\n")
    (tmp_path / "python.sh").chmod(0o755)
    answers = {}
    for said in ("", "no", "Y"):
        env = {"PATH": os.environ["PATH"], "ISAAC_PYTHON": str(tmp_path / "python.sh"), "ACCEPT_EULA": said}
        answers[said] = _run("bash", "docker/isaac-worker.sh", "self-test", env=env)
        assert started.exists() == (said == "Y")
    assert [answer.returncode for answer in answers.values()] == [3, 3, 0]
    assert "FACTORY_ISAAC_ACCEPT_EULA=Y" in answers[""].stderr


def test_the_api_image_stays_light():
    assert re.search(r'^ARG EXTRAS="api"$', (ROOT / "docker" / "api.Dockerfile").read_text(), re.MULTILINE)


def test_pinned_versions_fit_the_requirements():
    from packaging.requirements import Requirement

    pins = dict(line.split("==") for line in (ROOT / "docker" / "constraints.txt").read_text().splitlines()[1:])
    extras = {name for path in DOCKERFILES for name in path.read_text().split('ARG EXTRAS="')[1].split('"')[0].split()}
    answer = _run(sys.executable, "docker/requirements.py", "pyproject.toml", *sorted(extras))
    assert answer.returncode == 0, answer.stderr
    for line in answer.stdout.splitlines():
        asked = Requirement(line)
        if asked.name != "setuptools":  # builds the wheel and is not part of what runs
            assert asked.specifier.contains(pins[asked.name.lower()]), f"{line}: docker/constraints.txt has another"


def test_init_writes_once_and_never_over(tmp_path):
    for folder in ("database", "ray", "api-key"):
        (tmp_path / folder).mkdir()
    (tmp_path / "ray" / "token").write_text("mine")
    assert _run("sh", "docker/init-secrets.sh", tmp_path).returncode == 0
    password, key = tmp_path / "database" / "password", tmp_path / "api-key" / "first"
    first = password.read_text(), key.read_text()
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", first[0])
    assert password.stat().st_mode & 0o777 == 0o440
    assert _run("sh", "docker/init-secrets.sh", tmp_path).returncode == 0
    assert (password.read_text(), key.read_text()) == first
    assert (tmp_path / "ray" / "token").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["first", "password", "token"]


def test_the_service_accepts_the_first_key(tmp_path):
    from api.database import Database, sqlite_url
    from api.keys import adopt_key, key_of

    (tmp_path / "api-key").mkdir()
    for folder in ("database", "ray"):
        (tmp_path / folder).mkdir()
    assert _run("sh", "docker/init-secrets.sh", tmp_path).returncode == 0
    secret = (tmp_path / "api-key" / "first").read_text()
    book = Database(sqlite_url(tmp_path / "book.db"))
    book.migrate()
    for _ in range(2):
        with book.transaction() as session:
            adopt_key(session, secret, name="first", scopes=["read", "write", "admin"])
    with book.reading() as session:
        assert key_of(session, secret).name == "first"
    book.close()


@pytest.mark.parametrize("script", sorted((ROOT / "docker").glob("*.sh")), ids=lambda path: path.name)
def test_scripts_parse(script):
    shell = "sh" if script.read_text().startswith("#!/bin/sh") else "bash"
    answer = _run(shell, "-n", script)
    assert answer.returncode == 0, answer.stderr


def test_the_cluster_manifest_agrees_with_the_compose_file():
    manifest = next(
        each for each in yaml.safe_load_all((ROOT / "deploy" / "kuberay" / "raycluster.yaml").read_text())
        if each["kind"] == "RayCluster"
    )  # fmt: skip
    spec = manifest["spec"]
    pins = dict(line.split("==") for line in (ROOT / "docker" / "constraints.txt").read_text().splitlines()[1:])
    assert spec["rayVersion"] == pins["ray"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        for container in group["template"]["spec"]["containers"]:
            security = container["securityContext"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["allowPrivilegeEscalation"] is False
            assert container["resources"]["limits"]["memory"]
            assert re.search(r":\d+\.\d+\.\d+$", container["image"])
        assert group["template"]["spec"]["securityContext"]["runAsUser"] == 10001
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["maxReplicas"]
        assert json.loads(json.loads(group["rayStartParams"]["resources"])), "a JSON object in quotes of its own"
