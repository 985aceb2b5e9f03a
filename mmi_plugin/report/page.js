"use strict";

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// Tables: a button in each head sorts by the cells' data-value.
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = element("button", head.textContent.trim(), { class: "sort", type: "button" });
    head.replaceChildren(button);
    button.addEventListener("click", () => sortBy(table, head, column));
  });
}

function sortBy(table, head, column) {
  const ascending = head.getAttribute("aria-sort") === "descending";
  table.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const compare = (a, b) => key(a).localeCompare(key(b), undefined, { numeric: true });
  const number = (row) => Number(key(row));
  const rows = [...table.tBodies[0].rows];
  const numeric = rows.every((row) => !Number.isNaN(number(row)));
  rows.sort((a, b) => (numeric ? number(a) - number(b) : compare(a, b)) * (ascending ? 1 : -1));
  table.tBodies[0].append(...rows);
}

// Items: one data set is parsed at a time, and one page of items is in the document.
const PAGE = 20;
const browser = document.getElementById("browser");
const [taskBox, conditionBox, modelBox, filterBox] = ["task", "condition", "model", "filter"].map((name) =>
  document.getElementById(`browse-${name}`),
);
let data, page;

const LETTER = 0, RAW = 1, SHARES = 2, SCORE = 3, FLIPPED = 4, FOLLOWS = 5;
const right = (item, answer) => answer[SCORE] >= 0.5;
const FILTERS = {
  "all items": () => true,
  "answer flipped": (item, cell, before, after) => after[FLIPPED],
  "right to wrong": (item, cell, before, after) => right(item, before) && !right(item, after),
  "wrong to right": (item, cell, before, after) => !right(item, before) && right(item, after),
  "answer is what the text names": (item, cell, before, after) => after[FOLLOWS],
  "no answer that can be read": (item, cell, before, after) => after[LETTER] === null,
  "models disagree": (item, cell) => new Set(cell.answers.map((answer) => answer[LETTER])).size > 1,
};

function options(box, names) {
  box.replaceChildren(...names.map((name, index) => element("option", name, { value: index })));
}

function openTask() {
  data = JSON.parse(document.getElementById(`items-${taskBox.value}`).textContent);
  options(conditionBox, data.conditions);
  conditionBox.value = String(Math.min(1, data.conditions.length - 1));
  options(modelBox, ["any model", ...data.models]);
  show(0);
}

function matching() {
  const condition = Number(conditionBox.value), model = Number(modelBox.value) - 1;
  const keep = Object.values(FILTERS)[Number(filterBox.value)];
  const asked = model < 0 ? data.models.map((_, index) => index) : [model];
  return data.items.filter((item) => {
    const cell = item.cells[condition];
    return asked.some((index) => keep(item, cell, item.cells[0].answers[index], cell.answers[index]));
  });
}

function show(number) {
  const found = matching(), pages = Math.max(1, Math.ceil(found.length / PAGE));
  page = Math.min(Math.max(number, 0), pages - 1);
  const all = data.items.length < data.of ? ` (of ${data.of} in all, those with the most changed answers)` : "";
  document.getElementById("browse-count").textContent =
    `${found.length} of ${data.items.length} items${all}, page ${page + 1} of ${pages}. ${data.remark}`;
  document.getElementById("browse-previous").disabled = page === 0;
  document.getElementById("browse-next").disabled = page === pages - 1;
  browser.replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map(card));
}

function card(item) {
  const cell = item.cells[Number(conditionBox.value)];
  const made = element("article"), given = element("div", undefined, { class: "given" });
  const title = element("h3");
  title.append(element("bdi", item.id));
  if (cell.image !== undefined) {
    given.append(element("img", undefined, { src: data.images[cell.image], alt: `Picture of ${item.id}` }));
  }
  given.append(element("div", data.texts[cell.prompt], { class: "prompt", dir: "auto" }));
  const says = cell === item.cells[0] ? "a biased answer would be" : "what was added names";
  const named = cell.named ? `; ${says} ${cell.named}` : "";
  made.append(title, given, element("p", `Right answer: ${item.gold}${named}`), answers(item, cell));
  return made;
}

function answers(item, cell) {
  const table = element("table", undefined, { class: "answers" }), head = element("tr");
  const conditions = Number(conditionBox.value) === 0 ? [0] : [0, Number(conditionBox.value)];
  const titles = ["Model", ...conditions.map((index) => data.conditions[index])];
  head.append(...titles.map((name) => element("th", name, { scope: "col" })));
  table.append(element("thead"), element("tbody"));
  table.tHead.append(head);
  data.models.forEach((model, index) => {
    const row = element("tr"), name = element("th", undefined, { scope: "row" });
    name.append(element("bdi", model));
    row.append(name, ...conditions.map((condition) => answer(item, item.cells[condition].answers[index])));
    table.tBodies[0].append(row);
  });
  return table;
}

function answer(item, given) {
  const made = element("td"), good = right(item, given);
  const share = given[SCORE] % 1 ? ` (${given[SCORE]})` : "";
  const verdict = `${good ? "✓ right" : "✗ wrong"}${share}: ${given[LETTER] ?? "nothing that can be read"}`;
  made.append(element("span", verdict, { class: `verdict ${good ? "right" : "wrong"}` }), element("br"));
  made.append(element("bdi", data.texts[given[RAW]] || "(nothing)", { class: "raw" }));
  if (given[SHARES]) {
    const shares = given[SHARES].map((share, index) => `${String.fromCharCode(65 + index)} ${share.toFixed(3)}`);
    made.append(element("br"), element("small", shares.join("  ")));
  }
  return made;
}

options(filterBox, Object.keys(FILTERS));
taskBox.addEventListener("change", openTask);
for (const box of [conditionBox, modelBox, filterBox]) box.addEventListener("change", () => show(0));
document.getElementById("browse-previous").addEventListener("click", () => show(page - 1));
document.getElementById("browse-next").addEventListener("click", () => show(page + 1));
openTask();
