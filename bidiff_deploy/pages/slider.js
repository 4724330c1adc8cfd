// The line of each slider: `at` is where it is, in percent of what is visible of the picture; `cut`
// is that place in the picture, which may be scrolled.
const STEPS = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10,
  Home: -100, End: 100 };
const LEAST = 256; // device pixels that "Fit" enlarges a tiny picture to
const sliders = [];
root.dataset.zoom = "1";

class Slider {
  constructor(box) {
    [this.box, this.at] = [box, 50];
    for (const name of ["view", "stage", "line"]) this[name] = box.querySelector("." + name);
    this.figures = [...box.querySelectorAll("figure")];
    box.dataset.right = this.name(this.figures.at(-1));
    const image = box.querySelector("img");
    this.size = [Number(image.getAttribute("width")), Number(image.getAttribute("height"))];
    this.view.addEventListener("scroll", () => this.draw());
    this.line.addEventListener("keydown", event => this.press(event));
    this.line.addEventListener("pointerdown", event => this.follow(event, this.line,
      move => this.moveTo(move)));
    this.view.addEventListener("pointerdown", event => this.grab(event));
    box.addEventListener("dragstart", event => event.preventDefault());
  }

  name(figure) { return figure.querySelector("figcaption").textContent; }

  // The picture that is asked for, or the first of those that there are.
  choose(kind) {
    const lefts = this.figures.slice(0, -1);
    this.left = lefts.find(figure => figure.dataset.kind === kind) || lefts[0];
    lefts.forEach(figure => figure.classList.toggle("left", figure === this.left));
    this.box.dataset.left = this.name(this.left);
    this.draw();
  }

  fit() {
    const { view, stage, size } = this, ratio = devicePixelRatio || 1, zoom = root.dataset.zoom;
    const old = [stage.clientWidth, stage.clientHeight];
    const middle = [view.scrollLeft + view.clientWidth / 2, view.scrollTop + view.clientHeight / 2];
    const room = [this.box.parentElement.clientWidth, innerHeight * 0.82 - 1];
    const most = Math.max(1, LEAST / Math.max(...size)) / ratio;
    const factor = zoom === "fit" ? Math.min(room[0] / size[0], room[1] / size[1], most)
      : Number(zoom) / ratio;
    const now = size.map(side => side * factor);
    [stage.style.width, stage.style.height] = now.map(side => side + "px");
    const scrolls = zoom !== "fit" && (now[0] > room[0] + 1 || now[1] > room[1] + 1);
    view.classList.toggle("scrolls", scrolls);
    view.style.overflow = scrolls ? "" : "hidden";
    // What was in the middle stays there.
    const known = old[0] > 0 && this.drawn;
    view.scrollLeft = (known ? middle[0] / old[0] : 0.5) * now[0] - view.clientWidth / 2;
    view.scrollTop = (known ? middle[1] / old[1] : 0.5) * now[1] - view.clientHeight / 2;
    this.box.classList.toggle("tiny", view.clientWidth < 180 || view.clientHeight < 60);
    this.drawn = true;
    this.draw();
  }

  draw() {
    const { view, line, at } = this;
    this.stage.style.setProperty("--cut", view.scrollLeft + at / 100 * view.clientWidth + "px");
    this.box.style.setProperty("--at", at + "%");
    line.setAttribute("aria-valuenow", Math.round(at));
    line.setAttribute("aria-valuetext", `${Math.round(at)} % ${this.box.dataset.left}, `
      + `${Math.round(100 - at)} % ${this.box.dataset.right}`);
  }

  set(at) {
    this.at = Math.min(100, Math.max(0, at));
    this.draw();
  }

  moveTo(event) {
    const place = this.view.getBoundingClientRect();
    this.set(100 * (event.clientX - place.left) / this.view.clientWidth);
  }

  press(event) {
    if (!(event.key in STEPS) || event.altKey || event.ctrlKey || event.metaKey) return;
    this.set(Math.round(this.at) + STEPS[event.key]);
    event.preventDefault();
  }

  // Calls `move` for each movement until the pointer is released, wherever it goes.
  follow(event, target, move, end = () => {}) {
    if (event.button) return;
    const done = () => {
      target.removeEventListener("pointermove", move);
      for (const name of ["pointerup", "pointercancel"]) target.removeEventListener(name, done);
      end();
    };
    target.setPointerCapture(event.pointerId);
    target.addEventListener("pointermove", move);
    for (const name of ["pointerup", "pointercancel"]) target.addEventListener(name, done);
  }

  // A picture that scrolls is moved by the mouse, and a click moves the line; fingers scroll it.
  grab(event) {
    const { view } = this, mouse = event.pointerType === "mouse";
    if (!view.classList.contains("scrolls")) {
      if (mouse) this.moveTo(event);
      this.follow(event, view, move => this.moveTo(move));
      return;
    }
    if (!mouse || event.offsetX > view.clientWidth + view.scrollLeft) return;
    const from = [event.clientX, event.clientY, view.scrollLeft, view.scrollTop];
    let moved = false;
    view.classList.add("grabbed");
    this.follow(event, view, move => {
      const [x, y] = [move.clientX - from[0], move.clientY - from[1]];
      moved = moved || Math.hypot(x, y) > 4;
      if (moved) [view.scrollLeft, view.scrollTop] = [from[2] - x, from[3] - y];
    }, () => {
      view.classList.remove("grabbed");
      if (!moved) this.moveTo(event);
    });
  }
}

document.addEventListener("DOMContentLoaded", () => {
  sliders.push(...[...document.querySelectorAll(".compare")].map(box => new Slider(box)));
  const fit = () => sliders.forEach(slider => slider.fit());
  const update = () => sliders.forEach(slider => slider.choose(root.dataset.left));
  document.querySelectorAll(".bar input").forEach(radio => {
    if (radio.checked) root.dataset[radio.name] = radio.value; // as it was before a reload
    radio.addEventListener("change", () => {
      root.dataset[radio.name] = radio.value;
      if (radio.name === "zoom") fit(); else update();
    });
  });
  addEventListener("resize", fit);
  update();
  fit();
});
