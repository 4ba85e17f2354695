"use strict";
// Lists the sections, sorts tables by a click on a column's head, filters them by text, moves and
// zooms the graph.
const keyOf = (row, column) => {
  const cell = row.cells[column];
  const value = cell.dataset.value ?? cell.textContent.trim();
  const number = Number(value);
  return value !== "" && !Number.isNaN(number) ? number : value.toLowerCase();
};
const compare = (a, b) => {
  if (typeof a === typeof b) return a < b ? -1 : Number(a > b);
  return typeof a === "number" ? -1 : 1;
};
for (const head of document.querySelectorAll("table[data-sortable] thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = head.closest("table").tBodies[0];
    const rows = [...body.rows].map((row) => [keyOf(row, head.cellIndex), row]);
    rows.sort(([a], [b]) => (down ? compare(b, a) : compare(a, b)));
    body.append(...rows.map(([, row]) => row));
  });
}
for (const filter of document.querySelectorAll("input.filter")) {
  filter.hidden = false;
  const body = document.getElementById(filter.dataset.table).tBodies[0];
  let texts = null;  // read once: a table may have thousands of rows
  filter.addEventListener("input", () => {
    const wanted = filter.value.trim().toLowerCase();
    texts ??= [...body.rows].map((row) => [row, row.textContent.toLowerCase()]);
    for (const [row, text] of texts) row.hidden = !text.includes(wanted);
  });
}
const contents = document.querySelector("nav");
for (const head of document.querySelectorAll("main h2[id]")) {
  const link = document.createElement("a");
  link.href = `#${head.id}`;
  link.textContent = head.textContent;
  contents.append(link);
}
const view = document.querySelector("#graph-view");
if (view) {
  const picture = view.querySelector("svg");
  const whole = picture.viewBox.baseVal;
  const all = [whole.x, whole.y, whole.width, whole.height];
  view.classList.add("zooms");
  view.querySelector(".zoom").hidden = false;
  const show = (x, y, width, height) => picture.setAttribute("viewBox", [x, y, width, height].join(" "));
  const now = () => {
    const box = picture.viewBox.baseVal;
    return [box.x, box.y, box.width, box.height];
  };
  const zoom = (factor) => {
    const [x, y, width, height] = now();
    show(x + width * (1 - factor) / 2, y + height * (1 - factor) / 2, width * factor, height * factor);
  };
  const move = (right, down) => {
    const [x, y, width, height] = now();
    show(x + right, y + down, width, height);
  };
  const start = () => {  // a long graph is unreadable as a whole: begin at its inputs
    const width = Math.min(all[2], 900);
    show(all[0] + (all[2] - width) / 2, all[1], width, Math.min(all[3], 620));
  };
  const actions = {in: () => zoom(0.7), out: () => zoom(1 / 0.7), all: () => show(...all)};
  for (const button of view.querySelectorAll("button")) {
    button.addEventListener("click", actions[button.dataset.zoom]);
  }
  const step = () => now()[3] / 8;
  const keys = {
    "+": actions.in, "-": actions.out, 0: actions.all,
    ArrowUp: () => move(0, -step()), ArrowDown: () => move(0, step()),
    ArrowLeft: () => move(-step(), 0), ArrowRight: () => move(step(), 0),
  };
  view.addEventListener("keydown", (event) => {
    if (!keys[event.key] || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    keys[event.key]();
  });
  let held = null;
  picture.addEventListener("pointerdown", (event) => { held = [event.clientX, event.clientY]; });
  addEventListener("pointerup", () => { held = null; });
  picture.addEventListener("pointermove", (event) => {
    if (!held || !event.buttons) return;
    const scale = now()[2] / picture.clientWidth;
    move((held[0] - event.clientX) * scale, (held[1] - event.clientY) * scale);
    held = [event.clientX, event.clientY];
  });
  picture.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;  // the page scrolls; Ctrl and the wheel zoom
    event.preventDefault();
    zoom(event.deltaY < 0 ? 0.85 : 1 / 0.85);
  }, {passive: false});
  const goTo = () => {
    const node = location.hash.startsWith("#node-") && document.getElementById(location.hash.slice(1));
    if (!node) return;
    const box = node.getBBox();
    show(box.x + box.width / 2 - 450, box.y + box.height / 2 - 310, 900, 620);
    for (const other of picture.querySelectorAll(".chosen")) other.classList.remove("chosen");
    node.classList.add("chosen");
    view.scrollIntoView({block: "center"});
  };
  addEventListener("hashchange", goTo);
  start();
  goTo();
}
