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
    part("#lightbox-name").textContent = photo.querySelector(".name").textContent;
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

  document.querySelectorAll(".gallery").forEach((gallery) => {
    gallery.addEventListener("click", (event) => {
      const summary = event.target.closest("summary");
      if (!summary) return;
      event.preventDefault();
      photos = [...gallery.querySelectorAll(".photo:not([hidden])")];
      show(photos.indexOf(summary.parentElement));
      box.showModal();
    });
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

function printing() {
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not(.photo):not([open])")];
    opened.forEach((one) => (one.open = true));
  });
  window.addEventListener("afterprint", () => opened.forEach((one) => (one.open = false)));
}

document.querySelectorAll("table.sortable").forEach(sorting);
lightbox(document.querySelector("#lightbox"));
printing();
