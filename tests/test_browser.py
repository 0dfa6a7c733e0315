"""The dashboard in a real browser, against a real server: from an upload to a downloaded dataset."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--no-default-browser-check",
)
SEEDS = Path(__file__).parents[1] / "sim_tasks" / "seeds" / "lift.hdf5"
WICKED = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"

pytestmark = [
    pytest.mark.sim,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

_LISTEN = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (e) => {
  window.violations.push(e.violatedDirective + " " + e.blockedURI);
});
"""


@dataclass
class Visit:
    """A page, and everything it complained about."""

    page: Any
    complaints: list[str] = field(default_factory=list)

    def go(self, address: str) -> None:
        self.page.goto(address, wait_until="load")

    def violations(self) -> list[str]:
        return self.page.evaluate("window.violations")


def press(page: Any, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def follow(page: Any, name: str) -> None:
    page.get_by_role("link", name=name, exact=True).first.click()


def until(page: Any, truth: str, *, patience_s: float = 20.0) -> None:
    """Wait for an expression; playwright's own way evaluates text in the page, which the page's policy forbids."""
    end = time.monotonic() + patience_s
    while not page.evaluate(truth):
        assert time.monotonic() < end, truth
        page.wait_for_timeout(50)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as answer:  # noqa: S310 - our own server
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`factory serve` with one worker, over an empty folder."""
    data, port = tmp_path_factory.mktemp("served"), free_port()
    command = [sys.executable, "-c", "from workers.cli import main; main()"]
    command += ["serve", "--port", str(port), "--data", str(data), "--workers", "1"]
    log = (data / "serve.log").open("w")
    process = subprocess.Popen(
        command, stdout=log, stderr=log, cwd=SEEDS.parents[2], env={**os.environ, "COLUMNS": "120"}
    )
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 60
        while not answers(f"{address}/healthz"):
            assert process.poll() is None, (data / "serve.log").read_text()
            assert time.monotonic() < end, "the server does not answer"
            time.sleep(0.2)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as p:
        opened = p.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 1440, "height": 900}, accept_downloads=True)
    context.add_init_script(_LISTEN)
    page = context.new_page()
    page.set_default_timeout(20_000)
    visit = Visit(page=page)
    page.on("console", lambda m: visit.complaints.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    page.on("dialog", lambda dialog: visit.complaints.append(f"dialog {dialog.message}") or dialog.dismiss())
    yield visit
    context.close()


def test_from_upload_to_download(visit: Visit, server: str, tmp_path: Path) -> None:
    page, expect = visit.page, playwright.expect
    visit.go(f"{server}/files")
    page.set_input_files(
        "input[name=file]", {"name": f"{WICKED}.hdf5", "mimeType": "application/x-hdf5", "buffer": SEEDS.read_bytes()}
    )
    press(page, "Upload")
    page.wait_for_url("**/files/file_*")
    expect(page.locator("h1")).not_to_contain_text("<")  # the service keeps what may be part of a path
    expect(page.locator(".badge", has_text="ready").first).to_be_visible(timeout=90_000)

    # Drag the first boundary by a tenth of the track, then one step on with the keyboard.
    handle, bound = page.locator("[data-bound='0']"), page.locator(".bounds input").first
    bound.scroll_into_view_if_needed()
    before = int(bound.input_value())
    track = page.locator(".track").bounding_box()
    grip = page.locator(".handle .grip").first.bounding_box()
    assert track is not None
    assert grip is not None
    page.mouse.move(grip["x"] + grip["width"] / 2, grip["y"] + grip["height"] / 2)
    page.mouse.down()
    page.mouse.move(grip["x"] + grip["width"] / 2 - track["width"] / 10, grip["y"], steps=8)
    page.mouse.up()
    dragged = int(bound.input_value())
    assert dragged < before
    handle.focus()
    page.keyboard.press("ArrowRight")
    assert int(bound.input_value()) == dragged + 1
    press(page, "Save the cut")
    expect(page.locator("[data-saved]")).to_have_text("Saved as revision 1.")
    expect(page.locator(".bounds .hint").first).to_contain_text("set by hand")
    assert int(page.locator(".bounds input").first.input_value()) == dragged + 1

    follow(page, "New job from it")
    expect(page.locator("[name=files]:checked")).to_have_count(1)
    assert page.locator("[name=task]:checked").input_value() == "lift"
    page.fill("[name=count]", "2")
    page.fill("[name=name]", WICKED)
    page.select_option("[name=size]", "128")
    page.select_option("[name=preset]", "fast")
    press(page, "Start the job")
    page.wait_for_url("**/jobs/job_*")
    job_id = page.url.rsplit("/", 1)[-1]
    expect(page.locator("h1")).to_have_text(WICKED)

    # To the end without a reload: a mark on the window would be gone after one.
    page.evaluate("window.mark = 1")
    expect(page.locator(".badge", has_text="succeeded").first).to_be_visible(timeout=180_000)
    assert page.evaluate("window.mark") == 1
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if request.url.endswith("/live") else None)
    page.wait_for_timeout(4500)
    assert asked == [], "an ended job is not asked about again"
    expect(page.get_by_text("target reached")).to_be_visible()
    told = page.request.get(f"{server}/v1/jobs/{job_id}").json()
    assert dragged + 1 in [s for demos in told["spec"]["sources"][0]["cuts"].values() for s in demos["right"]]

    follow(page, "Watch episodes")
    page.wait_for_url("**/episodes")
    expect(page.locator("[data-player] video")).to_have_count(2)
    until(page, "[...document.querySelectorAll('[data-player] video')].every((v) => v.readyState >= 2)")
    page.click("[data-play]")
    until(page, "Number(document.querySelector('[data-scrub]').value) > 8")
    page.click("[data-play]")
    begins = float(page.locator("[data-player] video").first.get_attribute("data-from") or 0)
    times = page.evaluate("[...document.querySelectorAll('[data-player] video')].map((v) => v.currentTime)")
    assert min(times) > begins
    assert max(times) - min(times) < 0.2
    at = int(page.locator("[data-scrub]").input_value())
    page.click("[data-step='1']")
    assert int(page.locator("[data-scrub]").input_value()) == at + 1
    page.locator("[data-seek]").nth(1).click()
    assert int(page.locator("[data-scrub]").input_value()) == int(
        page.locator("[data-seek]").nth(1).get_attribute("data-seek") or -1
    )
    follow(page, "Episode 1")  # the second episode is another part of the same videos
    expect(page.locator("[data-player]")).to_contain_text("Episode 1")
    until(page, "document.querySelector('[data-player] video').readyState >= 2")

    page.locator("main").get_by_role("link", name="Dataset", exact=True).click()
    page.wait_for_url("**/datasets/ds_*")
    expect(page.locator("h1")).to_have_text(WICKED)
    with page.expect_download() as waiting:
        page.locator("a", has_text="Download").first.click()
    archive = tmp_path / "dataset.tar"
    waiting.value.save_as(archive)
    with tarfile.open(archive) as tar:
        names = tar.getnames()
    assert any(name.endswith("meta/info.json") for name in names)

    visit.go(f"{server}/")
    expect(page.locator(".jobs .name")).to_have_text(WICKED)
    assert page.evaluate("window.hacked") is None
    assert visit.violations() == []
    assert visit.complaints == []


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("address", ["/", "/jobs/new", "/files", "/datasets", "/workers", "/keys", "/login"])
def test_no_page_is_wider_than_its_window(visit: Visit, server: str, address: str, width: int) -> None:
    visit.page.set_viewport_size({"width": width, "height": 844})
    visit.go(f"{server}{address}")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    assert visit.page.evaluate("document.querySelectorAll('[style], script:not([src]), style').length") == 0
    assert visit.violations() == []
    assert visit.complaints == []


def test_pages_work_without_script(browser: Any, server: str) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto(f"{server}/jobs/new")
    page.check("[name=task][value=lift]")
    page.fill("[name=count]", "1")
    page.fill("[name=name]", "without script")
    page.uncheck("[name=pictures]")
    press(page, "Start the job")
    page.wait_for_url("**/jobs/job_*")
    assert "without script" in page.content()
    press(page, "Cancel")
    page.wait_for_url("**/jobs/job_*")
    assert "Somebody cancelled it" in page.content() or "succeeded" in page.content()
    context.close()
