// The audit's page: theme, tabs, hover texts, sorting, filter and folding. All content is there without it.
"use strict";
const root = document.documentElement;

const toggle = document.getElementById("theme");
toggle.hidden = false;
toggle.addEventListener("click", () => {
  const dark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

const tip = document.getElementById("tip");
let hot = null;
function showTip(event) {
  const svg = event.target.closest ? event.target.closest("svg") : null;
  let mark = svg && svg.dataset.tip ? svg : null;
  if (svg && !mark) {
    let best = 30;
    for (const candidate of svg.querySelectorAll("[data-tip]")) {
      const box = candidate.getBoundingClientRect();
      const x = box.left + box.width / 2 - event.clientX;
      const y = box.top + box.height / 2 - event.clientY;
      const distance = Math.hypot(x, y);
      if (distance < best) { best = distance; mark = candidate; }
    }
  }
  if (hot) hot.classList.remove("hot");
  hot = mark;
  tip.hidden = !mark;
  if (!mark) return;
  mark.classList.add("hot");
  tip.textContent = mark.dataset.tip;
  const width = tip.offsetWidth;
  tip.style.left = Math.max(6, Math.min(event.clientX + 14, innerWidth - width - 6)) + "px";
  const below = event.clientY + 18;
  const above = event.clientY - tip.offsetHeight - 12;
  tip.style.top = (below + tip.offsetHeight < innerHeight ? below : above) + "px";
}
document.addEventListener("pointermove", showTip);
document.addEventListener("scroll", () => { tip.hidden = true; }, true);

for (const tabs of document.querySelectorAll(".tabs")) {
  tabs.hidden = false;
  const buttons = [...tabs.querySelectorAll("button")];
  const select = (chosen) => {
    for (const button of buttons) {
      const on = button === chosen;
      button.setAttribute("aria-selected", String(on));
      button.tabIndex = on ? 0 : -1;
      document.getElementById(button.getAttribute("aria-controls")).hidden = !on;
    }
  };
  buttons.forEach((button, i) => {
    button.addEventListener("click", () => select(button));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = buttons[(i + step + buttons.length) % buttons.length];
      select(next);
      next.focus();
    });
  });
  select(buttons[0]);
  const reveal = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    const panel = target && target.closest("[role=tabpanel]");
    if (panel) select(buttons.find((b) => b.getAttribute("aria-controls") === panel.id));
    if (target) target.scrollIntoView({ block: "center" });
  };
  addEventListener("hashchange", reveal);
  addEventListener("beforeprint", () => {
    for (const button of buttons) document.getElementById(button.getAttribute("aria-controls")).hidden = false;
  });
  addEventListener("afterprint", () => select(buttons.find((b) => b.getAttribute("aria-selected") === "true")));
}

const foldedAbove = 60;
for (const table of document.querySelectorAll("table.data")) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const tools = table.closest("section").querySelector(".tools");
  const filter = tools ? tools.querySelector("input") : null;
  const open = new Set();
  let sorted = false;
  const refresh = () => {
    const words = filter ? filter.value.toLowerCase() : "";
    for (const row of rows) {
      const parent = row.dataset.parent;
      const inside = parent !== undefined && !open.has(parent) && !row.dataset.marked;
      row.hidden = words ? !row.dataset.name.toLowerCase().includes(words) : !sorted && inside;
    }
  };
  const folds = [...table.querySelectorAll("button.fold")];
  for (const fold of folds) {
    fold.hidden = false;
    if (rows.length <= foldedAbove) open.add(fold.dataset.block);
    const show = () => {
      const on = open.has(fold.dataset.block);
      fold.textContent = on ? "▾" : "▸";
      fold.setAttribute("aria-expanded", String(on));
    };
    fold.addEventListener("click", () => {
      if (!open.delete(fold.dataset.block)) open.add(fold.dataset.block);
      show();
      refresh();
    });
    show();
  }
  if (filter) {
    tools.hidden = false;
    filter.addEventListener("input", refresh);
  }
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const next = now === "descending" ? "ascending" : now === "ascending" ? null : "descending";
      for (const other of heads) other.removeAttribute("aria-sort");
      if (next) head.setAttribute("aria-sort", next);
      sorted = next !== null;
      const sign = next === "ascending" ? 1 : -1;
      const key = (row) => row.cells[column].dataset.v;
      const order = next === null ? rows : [...rows].sort((a, b) => {
        const x = key(a), y = key(b);
        if (x === undefined || y === undefined) {
          return sign * row_text(a, column).localeCompare(row_text(b, column), undefined, { numeric: true });
        }
        const p = x === "" ? NaN : Number(x), q = y === "" ? NaN : Number(y);
        if (Number.isNaN(p) || Number.isNaN(q)) return Number.isNaN(p) - Number.isNaN(q);
        return p === q ? 0 : sign * (p - q);
      });
      body.append(...order);
      refresh();
    });
  });
  refresh();
  addEventListener("hashchange", () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (target && body.contains(target)) target.hidden = false;
  });
}
function row_text(row, column) {
  return column === 0 ? row.dataset.name : row.cells[column].textContent;
}
