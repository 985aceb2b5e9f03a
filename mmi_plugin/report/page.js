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

// Paper shows what a click would: every table is open while it is printed.
const closed = () => [...document.querySelectorAll("details:not([open])")];
let opened = [];
addEventListener("beforeprint", () => {
  opened = closed();
  for (const one of opened) one.open = true;
});
addEventListener("afterprint", () => {
  for (const one of opened) one.open = false;
});

// Items: a data set is parsed when it is looked at, and one page of items is in the document.
const PAGE = 20;
const browser = document.getElementById("browser");
const [taskBox, conditionBox, modelBox, filterBox, searchBox, moreButton] = [
  "task", "condition", "model", "filter", "search", "more",
].map((name) => document.getElementById(`browse-${name}`));
const parsed = new Map(), ALL = "all";
let data, page, trouble = "";

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

// Each item knows the texts and pictures that came with it: the page's own, or those of a file beside it.
function adopt(items, part) {
  for (const item of items) item.part = part;
  return items;
}

function openTask() {
  const index = Number(taskBox.value);
  if (!parsed.has(index)) {
    const found = JSON.parse(document.getElementById(`items-${index}`).textContent);
    adopt(found.items, found);
    parsed.set(index, { ...found, items: [...found.items], files: [...found.files] });
  }
  data = parsed.get(index);
  options(conditionBox, data.conditions);
  conditionBox.append(element("option", "all, side by side", { value: ALL }));
  conditionBox.value = String(Math.min(1, data.conditions.length - 1));
  options(modelBox, ["any model", ...data.models]);
  trouble = "";
}

// A file beside the page is a script that calls this; one that was written for another page is not taken.
globalThis.mmiItems = (index, mark, part) => {
  const found = parsed.get(index);
  if (found === undefined || found.files[0]?.mark !== mark) return;
  found.items.push(...adopt(part.items, part));
  found.files.shift();
};

function loadMore(then) {
  const left = data.files.length, { name } = data.files[0];
  const script = element("script", undefined, { src: encodeURIComponent(name) });
  const end = () => {
    script.remove();
    trouble = data.files.length < left ? "" : ` ${name} is not beside this page, or of another one.`;
    then(trouble === "");
  };
  script.addEventListener("load", end);
  script.addEventListener("error", end);
  document.head.append(script);
}

function matching() {
  const chosen = conditionBox.value === ALL ? data.conditions.map((_, index) => index) : [Number(conditionBox.value)];
  const model = Number(modelBox.value) - 1, keep = Object.values(FILTERS)[Number(filterBox.value)];
  const asked = model < 0 ? data.models.map((_, index) => index) : [model], has = searching();
  return data.items.filter((item) =>
    has(item) && chosen.some((condition) => {
      const cell = item.cells[condition];
      return asked.some((index) => keep(item, cell, item.cells[0].answers[index], cell.answers[index]));
    }),
  );
}

// Whether an item's id, options, prompts or answers hold what is searched for; each text is looked at once.
function searching() {
  const wanted = searchBox.value.trim().toLowerCase(), hits = new Map();
  if (wanted === "") return () => true;
  const holds = (text) => text.toLowerCase().includes(wanted);
  return (item) => {
    if (!hits.has(item.part)) hits.set(item.part, item.part.texts.map(holds));
    const hit = hits.get(item.part);
    return holds(item.id) || item.options.some((text) => hit[text]) ||
      item.cells.some((cell) => hit[cell.prompt] || cell.answers.some((answer) => hit[answer[RAW]]));
  };
}

function show(number) {
  const found = matching(), pages = Math.max(1, Math.ceil(found.length / PAGE));
  page = Math.min(Math.max(number, 0), pages - 1);
  const all = data.items.length < data.of ? ` (of ${data.of} in all, those with the most changed answers)` : "";
  document.getElementById("browse-count").textContent =
    `${found.length} of ${data.items.length} items${all}, page ${page + 1} of ${pages}. ${data.remark}${trouble}`;
  document.getElementById("browse-previous").disabled = page === 0;
  document.getElementById("browse-next").disabled = page === pages - 1;
  moreButton.hidden = data.files.length === 0;
  if (!moreButton.hidden) moreButton.textContent = `Load ${data.files[0].items} more items`;
  browser.className = conditionBox.value === ALL ? "whole" : "examples";
  browser.replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map(card));
}

// A link: #task=NAME&item=ID&condition=NAME shows that item, whatever filter is set; more items are loaded until it is.
const taskName = (index) => taskBox.options[index].textContent;

function linkTo(item) {
  const condition = conditionBox.value === ALL ? ALL : data.conditions[Number(conditionBox.value)];
  return `#${new URLSearchParams({ task: taskName(Number(taskBox.value)), item: item.id, condition })}`;
}

function follow() {
  const link = new URLSearchParams(location.hash.slice(1)), id = link.get("item");
  const task = [...taskBox.options].findIndex((option) => option.textContent === link.get("task"));
  if (id === null || task < 0) return false;
  taskBox.value = String(task);
  openTask();
  const condition = data.conditions.indexOf(link.get("condition"));
  conditionBox.value = condition < 0 ? ALL : String(condition);
  [modelBox.value, filterBox.value, searchBox.value] = ["0", "0", ""];
  seek(id);
  return true;
}

function seek(id) {
  const place = data.items.findIndex((item) => item.id === id);
  if (place < 0 && data.files.length > 0) return loadMore((more) => (more ? seek(id) : show(0)));
  if (place < 0) trouble = ` There is no item ${id}.`;
  show(Math.floor(Math.max(place, 0) / PAGE));
  if (place < 0) return document.getElementById("items").scrollIntoView();
  const target = browser.children[place % PAGE];
  target.classList.add("linked");
  target.scrollIntoView();
}

const option = (item, letter) => {
  const text = item.options[letter.charCodeAt(0) - 65];
  return text === undefined ? letter : `${letter}: ${item.part.texts[text]}`;
};

function card(item) {
  const made = element("article"), title = element("h3");
  title.append(element("bdi", item.id), " ", element("a", "link", { class: "link", href: linkTo(item) }));
  made.append(title, naming("p", "Right answer: ", option(item, item.gold)));
  if (conditionBox.value === ALL) {
    const named = { role: "group", "aria-label": "all conditions" };
    const sides = element("div", undefined, { class: "sides", tabindex: "0", ...named });
    sides.append(...item.cells.map((_, index) => side(item, index)));
    made.append(sides);
  } else {
    const condition = Number(conditionBox.value);
    made.append(...given(item, item.cells[condition]), answers(item, condition));
  }
  return made;
}

function naming(tag, words, name) {
  const made = element(tag, words);
  made.append(element("bdi", name));
  return made;
}

// What the model was given: picture, prompt with what the condition added marked, the option that this names.
function given(item, cell) {
  const made = element("div", undefined, { class: "given" });
  if (cell.image !== undefined) {
    made.append(element("img", undefined, { src: item.part.images[cell.image], alt: `Picture of ${item.id}` }));
  }
  const prompt = element("div", undefined, { class: "prompt", dir: "auto" });
  const [before, added, after] = difference(item.part.texts[item.cells[0].prompt], item.part.texts[cell.prompt]);
  prompt.append(before, ...(added === "" ? [] : [element("mark", added)]), after);
  made.append(prompt);
  const says = cell === item.cells[0] ? "A biased answer would be " : "The added text names ";
  return cell.named ? [made, naming("p", says, option(item, cell.named))] : [made];
}

// Split a prompt into what the reference prompt begins with, what it has not, and what it ends with.
function difference(reference, prompt) {
  const most = Math.min(reference.length, prompt.length);
  let end = 0, start = 0;
  while (end < most && reference.at(-1 - end) === prompt.at(-1 - end)) end += 1;
  while (start < most - end && reference[start] === prompt[start]) start += 1;
  return [prompt.slice(0, start), prompt.slice(start, prompt.length - end), prompt.slice(prompt.length - end)];
}

function side(item, index) {
  const made = element("section"), cell = item.cells[index], table = element("table", undefined, { class: "answers even" });
  table.append(element("tbody"));
  data.models.forEach((model, place) => {
    const row = element("tr");
    row.append(naming("th", "", model), answer(item, cell.answers[place]));
    row.cells[0].scope = "row";
    table.tBodies[0].append(row);
  });
  made.append(element("h4", data.conditions[index]), ...given(item, cell), table);
  return made;
}

function answers(item, condition) {
  const table = element("table", undefined, { class: "answers even" }), head = element("tr");
  const conditions = condition === 0 ? [0] : [0, condition];
  const titles = ["Model", ...conditions.map((index) => data.conditions[index])];
  head.append(...titles.map((name) => element("th", name, { scope: "col" })));
  table.append(element("thead"), element("tbody"));
  table.tHead.append(head);
  data.models.forEach((model, index) => {
    const row = element("tr");
    row.append(naming("th", "", model), ...conditions.map((one) => answer(item, item.cells[one].answers[index])));
    row.cells[0].scope = "row";
    table.tBodies[0].append(row);
  });
  return table;
}

function answer(item, said) {
  const made = element("td"), good = right(item, said);
  const share = said[SCORE] % 1 ? ` (${said[SCORE]})` : "";
  const words = `${good ? "✓ right" : "✗ wrong"}${share}`, read = said[LETTER];
  made.append(element("span", words, { class: `verdict ${good ? "right" : "wrong"}` }));
  made.append(": ", element("bdi", read === null ? "nothing that can be read" : option(item, read)));
  made.append(element("br"), element("bdi", item.part.texts[said[RAW]] || "(nothing)", { class: "raw" }));
  if (said[SHARES]) {
    const shares = said[SHARES].map((share, index) => `${String.fromCharCode(65 + index)}\u00a0${share.toFixed(3)}`);
    made.append(element("br"), element("small", shares.join("  ")));
  }
  return made;
}

options(filterBox, Object.keys(FILTERS));
taskBox.addEventListener("change", () => {
  openTask();
  show(0);
});
for (const box of [conditionBox, modelBox, filterBox]) box.addEventListener("change", () => show(0));
searchBox.addEventListener("input", () => show(0));
document.getElementById("browse-previous").addEventListener("click", () => show(page - 1));
document.getElementById("browse-next").addEventListener("click", () => show(page + 1));
moreButton.addEventListener("click", () => {
  moreButton.disabled = true;
  loadMore(() => {
    moreButton.disabled = false;
    show(page);
  });
});
addEventListener("hashchange", follow);
if (!follow()) {
  openTask();
  show(0);
}
