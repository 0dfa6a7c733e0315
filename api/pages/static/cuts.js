// Boundaries of subtasks can be dragged, or moved with the keyboard; the number fields below stay the form's truth.
"use strict";

for (const form of document.querySelectorAll("[data-cuts]")) edit(form);
document.addEventListener("htmx:after:swap", () => {
  for (const form of document.querySelectorAll("[data-cuts]:not([data-ready])")) edit(form);
});

function edit(form) {
  form.dataset.ready = "";
  const steps = Number(form.dataset.steps);
  const saved = form.querySelector("[data-saved]");
  for (const arm of form.querySelectorAll("[data-arm]")) {
    const fields = [...form.elements].filter((f) => f.name?.startsWith(`${arm.dataset.arm}:`));
    const track = arm.querySelector(".track");
    const cells = [...track.querySelectorAll(".cell")];

    /** A boundary stays between its neighbours: a subtask lasts at least one step. */
    const bounded = (i, step) => {
      const low = i ? Number(fields[i - 1].value) + 1 : 1;
      const high = i + 1 < fields.length ? Number(fields[i + 1].value) - 1 : steps - 1;
      return Math.min(high, Math.max(low, Math.round(step)));
    };
    const draw = () => {
      const stops = fields.map((f) => Number(f.value));
      cells.forEach((cell, i) => {
        const start = i ? stops[i - 1] : 0;
        const stop = i < stops.length ? stops[i] : steps;
        cell.setAttribute("x", `${(100 * start) / steps}%`);
        cell.setAttribute("width", `${Math.max(0, (100 * (stop - start)) / steps)}%`);
      });
      stops.forEach((stop, i) => {
        const x = `${(100 * stop) / steps}%`;
        track.querySelector(`[data-place="${i}"]`).setAttribute("x", x);
        const handle = track.querySelector(`[data-bound="${i}"]`);
        handle.setAttribute("aria-valuenow", stop);
        handle.setAttribute("aria-valuetext", `step ${stop}`);
        for (const guide of arm.querySelectorAll(`[data-guide="${i}"]`)) {
          guide.setAttribute("x1", x);
          guide.setAttribute("x2", x);
        }
      });
    };
    const move = (i, step) => {
      fields[i].value = bounded(i, step);
      draw();
      const changed = fields.some((f) => f.value !== f.defaultValue);
      saved.textContent = changed ? "Not saved yet." : "";
      saved.classList.toggle("changed", changed);
    };

    for (const handle of track.querySelectorAll("[data-bound]")) {
      const i = Number(handle.dataset.bound);
      handle.addEventListener("pointerdown", (event) => {
        handle.setPointerCapture(event.pointerId);
        handle.focus({ preventScroll: true });
        event.preventDefault();
      });
      handle.addEventListener("pointermove", (event) => {
        if (!handle.hasPointerCapture(event.pointerId)) return;
        const box = track.getBoundingClientRect();
        move(i, ((event.clientX - box.left) / box.width) * steps);
      });
      handle.addEventListener("keydown", (event) => {
        const at = Number(fields[i].value);
        const far = event.shiftKey ? 10 : 1;
        const to = {
          ArrowLeft: at - far, ArrowDown: at - far, ArrowRight: at + far, ArrowUp: at + far,
          PageDown: at - 10, PageUp: at + 10, Home: 0, End: steps,
        }[event.key];
        if (to === undefined) return;
        move(i, to);
        event.preventDefault();
      });
    }
    fields.forEach((field, i) => field.addEventListener("change", () => move(i, Number(field.value))));
    draw();
  }
}
