// The form for a job shows what fits the chosen task, and hides what a choice makes pointless.
"use strict";

for (const form of document.querySelectorAll("[data-job]")) {
  const starts = form.elements.variant;
  const all = [...starts.options];
  const fit = () => {
    const task = form.querySelector("[name=task]:checked");
    if (task) {
      const known = task.dataset.variants.split(" ");
      const chosen = starts.value;
      starts.replaceChildren(...all.filter((option) => known.includes(option.value)));
      starts.value = known.includes(chosen) ? chosen : known[0];
      for (const choice of form.querySelectorAll("[data-task]")) {
        const other = choice.dataset.task && choice.dataset.task !== task.value;
        choice.hidden = other;
        if (other) choice.querySelector("input").checked = false;
      }
    }
    for (const part of form.querySelectorAll("[data-pictures]")) part.hidden = !form.elements.pictures.checked;
    form.elements.max_attempts.closest(".field").hidden = form.elements.goal.value === "attempts";
  };
  form.addEventListener("change", fit);
  fit();
}
