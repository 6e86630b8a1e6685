// What plain forms cannot do. Every page works without it.
"use strict";

// Pages that nobody looks at ask for nothing.
document.addEventListener("htmx:before:request", (event) => {
  const source = event.detail?.ctx?.sourceElement;
  if (document.hidden && source?.getAttribute("hx-trigger")?.includes("every")) event.preventDefault();
});

// A checkbox with data-all="name" checks all of that name in its form.
document.addEventListener("change", (event) => {
  const name = event.target.dataset?.all;
  if (!name) return;
  for (const box of event.target.form.elements) {
    if (box.type === "checkbox" && box.name === name) box.checked = event.target.checked;
  }
});

// A form is sent once, however often its button is pressed.
document.addEventListener("submit", (event) => {
  if (event.defaultPrevented || event.submitter?.formTarget) return; // what goes into a frame leaves the page as it is
  if (event.target.dataset.sent) return event.preventDefault();
  event.target.dataset.sent = "1";
  window.setTimeout(() => delete event.target.dataset.sent, 4000);
});
window.addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});

// The time on an element with data-until (an ISO time) runs down to nothing.
const countdown = () => {
  for (const element of document.querySelectorAll("[data-until]")) {
    const left = Math.ceil((Date.parse(element.dataset.until) - Date.now()) / 1000);
    element.textContent = String(Math.max(0, left));
  }
};
window.setInterval(countdown, 1000);
