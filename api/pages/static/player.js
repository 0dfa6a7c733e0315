// All cameras of one episode as one film: one clock, one scrubber. An episode is the part [from, to) of each video.
"use strict";

for (const root of document.querySelectorAll("[data-player]")) attach(root);
document.addEventListener("htmx:after:swap", () => {
  for (const root of document.querySelectorAll("[data-player]:not([data-ready])")) attach(root);
  markShown();
});
markShown();

/** The card of the episode that is shown says so. */
function markShown() {
  const shown = new URL(location.href).searchParams.get("show");
  if (shown === null) return;
  for (const card of document.querySelectorAll("[data-film]")) {
    card.toggleAttribute("aria-current", card.dataset.film === shown);
  }
}

function attach(root) {
  root.dataset.ready = "";
  root.classList.remove("plain");
  const fps = Number(root.dataset.fps);
  const rows = Number(root.dataset.rows);
  const views = [...root.querySelectorAll("video")].map((video) => ({ video, from: Number(video.dataset.from) }));
  const [leader, ...others] = views;
  const find = (name) => root.querySelector(`[data-${name}]`);
  const [play, scrub, readout, seconds, speed] = ["play", "scrub", "readout", "seconds", "speed"].map(find);
  const chapters = [...root.querySelectorAll("[data-seek]")];
  let playing = false;
  let frame = 0;
  let wanted = null; // a frame somebody asked for while the last seek was under way

  for (const { video } of views) {
    video.removeAttribute("controls");
    video.addEventListener("click", toggle);
  }

  /** The middle of a frame, so that rounding in the container cannot show its neighbour. */
  const moment = (view, at) => view.from + (at + 0.5) / fps;
  const frameNow = () => Math.min(rows - 1, Math.max(0, Math.floor((leader.video.currentTime - leader.from) * fps + 1e-3)));

  function show(at) {
    frame = at;
    scrub.value = at;
    scrub.setAttribute("aria-valuetext", `frame ${at} of ${rows}`);
    readout.textContent = `${at} / ${rows}`;
    seconds.textContent = `${(at / fps).toFixed(2)} s`;
    for (const chapter of chapters) {
      const inside = at >= Number(chapter.dataset.seek) && at < Number(chapter.dataset.until);
      chapter.toggleAttribute("aria-current", inside);
    }
  }

  /** Go to a frame in every view; while they are still on their way, only the last wish counts. */
  function seek(at) {
    at = Math.min(rows - 1, Math.max(0, Math.round(at)));
    show(at);
    if (views.some(({ video }) => video.seeking)) {
      wanted = at;
      return;
    }
    wanted = null;
    for (const view of views) view.video.currentTime = moment(view, at);
  }
  for (const { video } of views) {
    video.addEventListener("seeked", () => {
      if (wanted !== null && !views.some((view) => view.video.seeking)) seek(wanted);
    });
  }

  async function start() {
    if (frame >= rows - 1) seek(0);
    playing = true;
    mark();
    for (const { video } of views) video.playbackRate = Number(speed.value);
    try {
      await Promise.all(views.map(({ video }) => video.play()));
    } catch {
      stop(); // the browser would not, or the film was replaced
      return;
    }
    requestAnimationFrame(tick);
  }
  function stop() {
    playing = false;
    for (const { video } of views) video.pause();
    mark();
  }
  function toggle() {
    if (playing) {
      stop();
      seek(frame);
    } else start();
  }
  function mark() {
    play.setAttribute("aria-pressed", String(playing));
    play.setAttribute("aria-label", playing ? "Pause" : "Play");
  }

  /** The first view is the clock; another that strays by more than a frame is called back. */
  function tick() {
    if (!playing || !root.isConnected) return;
    show(frameNow());
    const into = leader.video.currentTime - leader.from;
    if (into >= (rows - 0.75) / fps) {
      stop();
      seek(rows - 1);
      return;
    }
    for (const view of others) {
      const drift = view.video.currentTime - view.from - into;
      if (Math.abs(drift) > 1.5 / fps && !view.video.seeking) view.video.currentTime = view.from + into;
    }
    requestAnimationFrame(tick);
  }

  play.addEventListener("click", toggle);
  scrub.addEventListener("input", () => {
    if (playing) stop();
    seek(Number(scrub.value));
  });
  speed.addEventListener("change", () => {
    for (const { video } of views) video.playbackRate = Number(speed.value);
  });
  for (const button of root.querySelectorAll("[data-step]")) {
    button.addEventListener("click", () => {
      if (playing) stop();
      seek(frame + Number(button.dataset.step));
    });
  }
  for (const chapter of chapters) chapter.addEventListener("click", () => seek(Number(chapter.dataset.seek)));

  root.addEventListener("keydown", (event) => {
    if (event.target.matches("select") || event.altKey || event.ctrlKey || event.metaKey) return;
    const far = event.shiftKey ? 10 : 1;
    const act = {
      ArrowLeft: () => seek(frame - far),
      ArrowRight: () => seek(frame + far),
      Home: () => seek(0),
      End: () => seek(rows - 1),
      " ": event.target.matches("button:not([data-play])") ? null : toggle,
    }[event.key];
    if (!act) return;
    event.preventDefault();
    if (playing && event.key !== " ") stop();
    act();
  });

  const ready = () => seek(0);
  if (leader.video.readyState >= 1) ready();
  else leader.video.addEventListener("loadedmetadata", ready, { once: true });
}
