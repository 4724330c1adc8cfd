// A link to a folded section opens it.
function unfold() {
  const fold = document.getElementById(location.hash.slice(1))?.querySelector(".fold");
  if (fold) fold.open = true;
}
addEventListener("hashchange", unfold);
document.addEventListener("DOMContentLoaded", unfold);

// Paper shows what a reader would have opened.
let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  closed.forEach(part => { part.open = true; });
});
addEventListener("afterprint", () => closed.forEach(part => { part.open = false; }));
