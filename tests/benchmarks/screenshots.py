"""Pictures of every page of the dashboard, with real jobs.

    python -m tests.benchmarks.screenshots --server http://127.0.0.1:8000 --out docs/images

The server (`factory serve`) may be empty: the script uploads demonstrations, moves a boundary, asks for an estimate
and for jobs, waits for them, and takes each page at 1440 and at 390 pixels. What an earlier run made is used again.
"""

from __future__ import annotations

import argparse
import io
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import Page, sync_playwright

SEEDS = Path(__file__).parents[2] / "sim_tasks" / "seeds" / "stack.hdf5"
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
CAMERAS = ["agentview", "frontview", "robot0_eye_in_hand"]
WIDTHS = {1440: 2600, 390: 2000}
"""Width of the window -> height beyond which a picture is cut off."""
COLOURS = 256
"""Flat surfaces and few hues: nobody sees the difference, and a picture is a third of its size."""


class Service:
    """The API of the server whose pages are taken."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.http = httpx.Client(base_url=self.url, timeout=60.0)

    def get(self, path: str) -> dict[str, Any]:
        return self.http.get(path).raise_for_status().json()

    def post(self, path: str, body: Any = None) -> dict[str, Any]:
        return self.http.post(path, json=body).raise_for_status().json()

    def until(self, path: str, done: Callable[[dict[str, Any]], bool], *, patience_s: float = 3600.0) -> dict[str, Any]:
        end = time.monotonic() + patience_s
        while not done(found := self.get(path)):
            if time.monotonic() > end:
                raise TimeoutError(f"{path} after {patience_s:.0f} s: {found}")
            time.sleep(0.5)
        return found


def upload(service: Service) -> str:
    """Upload demonstrations, cut one of them by hand, and return the file's id."""
    with SEEDS.open("rb") as file:
        told = service.http.post("/v1/files", files={"file": ("kitchen_table.hdf5", file)}).raise_for_status().json()
    path = f"/v1/files/{told['id']}"
    found = service.until(path, lambda answer: answer["status"] != "checking")
    demo = found["report"]["demos"][3]
    stop = demo["segments"]["right"][0]["stop"]
    service.http.put(f"{path}/cuts", json={demo["name"]: {"right": [stop - 4]}}).raise_for_status()
    return told["id"]


def job(service: Service, name: str, body: dict[str, Any], *, purpose: str = "generate") -> dict[str, Any]:
    """Return the job of this name, asked for now unless an earlier run did."""
    there = service.get(f"/v1/jobs?limit=100&purpose={purpose}")["data"]
    if known := next((found for found in there if found["name"] == name), None):
        return known
    return service.post("/v1/jobs:estimate" if purpose == "estimate" else "/v1/jobs", {**body, "name": name})


def ended(job: dict[str, Any]) -> bool:
    return job["finished_at"] is not None


@contextmanager
def window(browser: Any, width: int, theme: str) -> Iterator[Page]:
    context = browser.new_context(
        viewport={"width": width, "height": 900 if width > 600 else 844}, color_scheme=theme, locale="en-GB"
    )
    yield context.new_page()
    context.close()


def take(
    browser: Any, address: str, place: Path, *, theme: str = "light", act: Callable[[Page], Any] | None = None
) -> None:
    """Write one picture of a page for each width."""
    for width, most in WIDTHS.items():
        with window(browser, width, theme) as page:
            page.goto(address, wait_until="load")
            page.wait_for_timeout(500)
            settle(page)
            if act is not None:
                act(page)
            picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
        picture = picture.crop((0, 0, width, min(picture.height, most)))
        name = place.with_name(f"{place.name}{'' if width > 600 else f'-{width}'}.png")
        picture.quantize(COLOURS, kmeans=2, dither=Image.Dither.NONE).save(name, optimize=True)
        print(f"{name}  {picture.width} x {picture.height}  {name.stat().st_size / 1000:.0f} kB", flush=True)


def settle(page: Page, *, patience_s: float = 60.0) -> None:
    """Wait until every film and still shows a picture."""
    end = time.monotonic() + patience_s
    films = "[...document.querySelectorAll('video')].every((v) => v.readyState >= 2 && !v.seeking)"
    stills = "[...document.images].every((i) => i.complete)"
    page.evaluate("document.querySelectorAll('img').forEach((i) => (i.loading = 'eager'))")
    while not page.evaluate(f"{films} && {stills}"):
        if time.monotonic() > end:
            raise TimeoutError(f"{page.url}: films do not load")
        page.wait_for_timeout(200)
    page.wait_for_timeout(300)


def half_way(page: Page) -> None:
    """Let the film stand in its middle."""
    page.evaluate(
        """() => {
          const scrub = document.querySelector("[data-scrub]");
          scrub.value = Math.round(scrub.max * 0.62);
          scrub.dispatchEvent(new Event("input"));
        }"""
    )
    settle(page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", default="http://127.0.0.1:8000")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--episodes", type=int, default=24)
    given = parser.parse_args()
    service, out = Service(given.server), given.out
    out.mkdir(parents=True, exist_ok=True)
    render = {"cameras": CAMERAS, "width": 256, "height": 256, "preset": "fast"}
    file_id = upload(service)
    wanted = {"task": "stack", "variant": "D1", "files": [file_id], "seed": 5, "render": render}
    hopeless = {"task": "square", "variant": "D1", "seed": 2, "render": None, "episodes": 100}
    hopeless |= {"min_success_rate": 0.95, "min_success_after": 20}
    hard = {"task": "stack_three", "variant": "D1", "seed": 1, "render": None, "episodes": 30, "max_attempts": 90}
    later = {"task": "can", "episodes": 500, "render": None, "priority": "low"}
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=list(FLAGS))

        def picture(path: str, name: str, **how: Any) -> None:
            take(browser, service.url + path, out / f"dashboard-{name}", **how)

        def wait(job_id: str, until: Callable[[dict[str, Any]], bool] = ended) -> dict[str, Any]:
            return service.until(f"/v1/jobs/{job_id}", until)

        first = job(service, "Towers over the whole table", {**wanted, "episodes": given.episodes})["id"]
        if (
            wait(first, lambda j: ended(j) or j["request_counts"]["succeeded"] >= given.episodes * 0.6)["status"]
            == "running"
        ):
            picture(f"/jobs/{first}", "job-live")
        dataset = wait(first)["dataset_id"]
        stopped = job(service, "Square nut, no patience", hopeless)["id"]
        wait(stopped)
        three = job(service, "Towers of three, wide starts", hard)["id"]
        wait(three, lambda j: ended(j) or j["request_counts"]["attempted"] >= 25)
        night = job(service, "Cans over night", later)["id"]
        picture("/", "jobs")
        picture("/workers", "workers")
        service.http.post(f"/v1/jobs/{night}/pause")
        wait(three)
        pilot = job(service, "A thousand towers", {**wanted, "episodes": 1000}, purpose="estimate")["id"]
        wait(pilot)
        picture(f"/jobs/new?estimate={pilot}", "new-job")
        picture(f"/jobs/{first}", "job")
        picture(f"/jobs/{three}", "job-dark", theme="dark")
        picture(f"/jobs/{stopped}", "job-stopped")
        picture(f"/jobs/{first}/episodes?show=7", "episodes", act=half_way)
        failures = f"/v1/jobs/{three}/attempts?outcome=failure&limit=1"
        index = service.get(failures)["data"][0]["index"]
        service.post(f"/v1/jobs/{three}/attempts/{index}/clip")
        service.until(failures, lambda found: bool((found["data"][0]["clip"] or {}).get("cameras")))
        picture(f"/jobs/{three}/episodes?outcome=failure&show={index}", "failures", act=half_way)
        picture(f"/datasets/{dataset}", "dataset")
        picture("/datasets", "datasets")
        picture(f"/files/{file_id}?demo=demo_3", "file")
        picture("/files", "files")
        picture("/keys", "keys")
        picture("/login", "login")
        browser.close()
    total = sum(path.stat().st_size for path in out.glob("dashboard-*.png"))
    print(f"{total / 1e6:.2f} MB together")


if __name__ == "__main__":
    main()
