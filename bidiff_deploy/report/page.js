"use strict";
// Themes: auto follows the system, light and dark are chosen. Storage may be refused to a file.
const root = document.documentElement;
root.classList.add("js");
const themes = ["auto", "light", "dark"];
function stored() {
  try { return localStorage.getItem("bidiff-theme"); } catch { return null; }
}
function show(theme) {
  if (theme === "auto") delete root.dataset.theme; else root.dataset.theme = theme;
  const button = document.getElementById("theme");
  if (button) button.textContent = "Theme: " + theme;
}
let theme = themes.includes(stored()) ? stored() : "auto";
show(theme);

function slider(box) {
  const line = box.querySelector("input.line");
  const words = { bicubic: "bicubic", original: "original" };
  let left = "bicubic";
  const name = line.getAttribute("aria-label");
  function update() {
    box.style.setProperty("--at", line.value + "%");
    box.dataset.left = left;
    line.setAttribute("aria-valuetext",
      line.value + " % " + words[left] + ", " + (100 - line.value) + " % packed");
  }
  line.setAttribute("aria-label", name);
  line.addEventListener("input", update);
  box.parentElement.querySelectorAll(".choice input").forEach(radio =>
    radio.addEventListener("change", () => { left = radio.value; update(); }));
  update();
}

document.addEventListener("DOMContentLoaded", () => {
  show(theme);
  document.getElementById("theme").addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    try { localStorage.setItem("bidiff-theme", theme); } catch { /* this page only */ }
    show(theme);
  });
  document.querySelectorAll(".compare").forEach(slider);
});

// Paper shows what a reader would have opened.
let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  closed.forEach(part => { part.open = true; });
});
addEventListener("afterprint", () => closed.forEach(part => { part.open = false; }));
