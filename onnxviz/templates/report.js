"use strict";
// The page is whole without this: it sorts tables, and shows a photo with its maps laid over it.

function sorting(table) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => {
    const cell = row.cells[column];
    return "key" in cell.dataset ? parseFloat(cell.dataset.key) : cell.textContent.trim();
  };
  const compare = (a, b) =>
    typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    const first = head.classList.contains("number") ? "descending" : "ascending";
    const second = first === "ascending" ? "descending" : "ascending";
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const next = now === first ? second : now === second ? null : first;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      let order = rows;
      if (next) {
        head.setAttribute("aria-sort", next);
        const sign = next === "ascending" ? 1 : -1;
        const missing = (value) => value === "" || Number.isNaN(value);
        order = [...rows].sort((a, b) => {
          const [x, y] = [key(a, column), key(b, column)];
          return missing(x) - missing(y) || (missing(x) ? 0 : sign * compare(x, y));
        });
      }
      body.append(...order);
    });
  });
}

function lightbox(box) {
  const part = (selector) => box.querySelector(selector);
  const [base, over, opacity, said] = [".base", ".over", ".opacity input", ".said"].map(part);
  const chosen = { method: "", target: "" };
  let photos = [];
  let at = 0;

  const layers = () => [...photos[at].querySelectorAll(".layer")];
  const names = (kind, among) => [...new Set(among.map((one) => one.dataset[kind]))];

  function lay() {
    const found = layers().find(
      (one) => one.dataset.method === chosen.method && one.dataset.target === chosen.target,
    );
    over.hidden = !found;
    if (found) {
      over.src = found.querySelector("img").src;
      over.alt = found.querySelector("img").alt;
    }
    over.style.opacity = opacity.value / 100;
    part(".opacity span").textContent = part("[data-tabs=method]").hidden ? chosen.method : "Map";
  }

  function tabs(kind, among) {
    const field = part(`[data-tabs=${kind}]`);
    field.querySelectorAll("label").forEach((label) => label.remove());
    const all = names(kind, among);
    if (!all.includes(chosen[kind])) chosen[kind] = all[0] || "";
    field.hidden = all.length < 2;
    for (const name of all) {
      const label = document.createElement("label");
      const input = document.createElement("input");
      input.type = "radio";
      input.name = `lightbox-${kind}`;
      input.checked = name === chosen[kind];
      input.addEventListener("change", () => {
        chosen[kind] = name;
        if (kind === "method") targets();
        lay();
      });
      const text = document.createElement("span");
      text.textContent = name;
      label.append(input, text);
      field.append(label);
    }
  }

  const targets = () => tabs("target", layers().filter((one) => one.dataset.method === chosen.method));

  function show(index) {
    at = (index + photos.length) % photos.length;
    const photo = photos[at];
    const picture = photo.querySelector("summary img");
    base.src = picture.src;
    base.alt = picture.alt;
    part("#lightbox-name").textContent = photo.querySelector(".name").title;
    part("#lightbox-note").textContent = [...photo.querySelectorAll("summary .mark, summary .soft")]
      .map((one) => one.textContent)
      .join(" · ");
    const answers = photo.querySelector(".answers");
    said.replaceChildren(...(answers ? [answers.cloneNode(true)] : []));
    tabs("method", layers());
    targets();
    part(".opacity").hidden = !layers().length;
    lay();
  }

  document.querySelectorAll(".photos").forEach((part) => {
    const all = [...part.querySelectorAll(".photo")];
    const open = (photo) => {
      photos = all.filter((one) => !one.hidden);
      show(photos.indexOf(photo));
      box.showModal();
    };
    part.addEventListener("click", (event) => {
      const summary = event.target.closest(".photo > summary");
      if (!summary) return;
      event.preventDefault();
      open(summary.parentElement);
    });
    const map = part.querySelector(".map");
    if (map) lasso(map, all, open);
  });
  opacity.addEventListener("input", lay);
  box.addEventListener("click", (event) => {
    const act = event.target.closest("[data-do]");
    if (act) ({ close: () => box.close(), next: () => show(at + 1), previous: () => show(at - 1) })[act.dataset.do]();
    else if (event.target === box) box.close();
  });
  box.addEventListener("keydown", (event) => {
    if (event.target.matches("input")) return;
    if (event.key === "ArrowRight") show(at + 1);
    if (event.key === "ArrowLeft") show(at - 1);
  });
}

// On the map a point is a photo; a line drawn around points leaves those alone in the grid.
function lasso(map, all, open) {
  const svg = map.querySelector("svg");
  const path = map.querySelector("path");
  const said = map.querySelector("span");
  const button = map.querySelector("button");
  const points = [...map.querySelectorAll("circle")];
  const photo = (point) => all[point.dataset.photo];
  let line = null;

  function filter(inside) {
    all.forEach((one) => (one.hidden = inside !== null));
    points.forEach((point) => {
      const kept = inside === null || inside(point);
      point.classList.toggle("out", !kept);
      if (kept) photo(point).hidden = false;
    });
    const count = all.filter((one) => !one.hidden).length;
    said.textContent = inside === null ? "Draw a line around points to see only their photos." : `${count} of ${all.length} photos`;
    button.hidden = inside === null;
    if (inside === null) path.removeAttribute("d");
  }

  const place = (event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  svg.addEventListener("pointerdown", (event) => {
    svg.setPointerCapture(event.pointerId);
    line = [place(event)];
  });
  svg.addEventListener("pointermove", (event) => {
    if (!line) return;
    line.push(place(event));
    path.setAttribute("d", `M${line.map((p) => `${p.x.toFixed(1)},${p.y.toFixed(1)}`).join("L")}Z`);
  });
  svg.addEventListener("pointerup", (event) => {
    const drawn = line;
    line = null;
    if (!drawn) return;
    const xs = drawn.map((p) => p.x);
    const ys = drawn.map((p) => p.y);
    if (Math.max(...xs) - Math.min(...xs) + Math.max(...ys) - Math.min(...ys) < 12) {
      path.removeAttribute("d");
      const under = document.elementsFromPoint(event.clientX, event.clientY).find((one) => points.includes(one));
      if (under) open(photo(under));
      return;
    }
    filter((point) => path.isPointInFill(new DOMPoint(point.cx.baseVal.value, point.cy.baseVal.value)));
  });
  button.addEventListener("click", () => filter(null));
  filter(null);
}

document.querySelectorAll("table.sortable").forEach(sorting);
lightbox(document.querySelector("#lightbox"));
