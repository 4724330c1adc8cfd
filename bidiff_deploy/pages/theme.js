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

document.addEventListener("DOMContentLoaded", () => {
  show(theme);
  document.getElementById("theme").addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    try { localStorage.setItem("bidiff-theme", theme); } catch { /* this page only */ }
    show(theme);
  });
});
