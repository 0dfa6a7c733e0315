// Small comforts of every page; each page works without them.
"use strict";

const FORMAT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/** Show times in the reader's own zone. */
function localise(root) {
  for (const time of root.querySelectorAll("time[data-local]")) {
    time.textContent = FORMAT.format(new Date(time.dateTime));
  }
}

/** Copy buttons appear where a clipboard can be reached, and say when they have done it. */
function offerCopies(root) {
  if (!navigator.clipboard) return;
  for (const button of root.querySelectorAll("[data-copy][hidden]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1600);
    });
  }
}

/** Forms that only choose what is shown need no button. */
function submitOnChange(root) {
  for (const form of root.querySelectorAll("form[data-auto]")) {
    form.querySelector("button")?.setAttribute("hidden", "");
    form.addEventListener("change", () => form.requestSubmit());
  }
}

/** A question before something that cannot be taken back. */
document.addEventListener("submit", (event) => {
  const question = event.target.dataset?.confirm;
  if (question && !window.confirm(question)) event.preventDefault();
});

function enhance(root) {
  localise(root);
  offerCopies(root);
  submitOnChange(root);
}

enhance(document);
document.addEventListener("htmx:after:swap", () => { localise(document); offerCopies(document); });

/** An upload shows how far it is; without script the form does the same in one go. */
for (const form of document.querySelectorAll("form[data-upload]")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const button = form.querySelector("button");
    const told = form.querySelector("[data-told]");
    const request = new XMLHttpRequest();
    const refuse = (words) => {
      told.textContent = words;
      told.classList.add("wrong");
      button.disabled = false;
    };
    request.upload.addEventListener("progress", (part) => {
      const share = part.lengthComputable ? Math.round((100 * part.loaded) / part.total) : 0;
      told.textContent = share < 100 ? `${share} % sent` : "Sent. It is being checked.";
    });
    request.addEventListener("error", () => refuse("The connection broke; nothing was kept."));
    request.addEventListener("load", () => {
      let answer = {};
      try { answer = JSON.parse(request.responseText); } catch { /* not one of ours */ }
      if (request.status < 300) location.assign(`/files/${encodeURIComponent(answer.id)}`);
      else refuse(answer.detail ?? `It was refused with status ${request.status}.`);
    });
    request.open("POST", "/v1/files");
    button.disabled = true;
    told.classList.remove("wrong");
    told.textContent = "Sending.";
    request.send(new FormData(form));
  });
}
