// The page over a run. The address after # is the whole state; names from the run become text nodes only.

const PAGE = 48;
const FACETS = 24;
const REJECTS = 50;
const main = document.getElementById("main");
const query = document.getElementById("query");
const names = document.getElementById("names");
const status = document.getElementById("status");

let turn = 0; // Of the views that were asked for, only the last one is drawn.
let listed = []; // Image ids of the last result, to go from one image to the next.
let lastResult = "#/search";

// ---------- small parts

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

async function ask(path, parameters = {}, sent = {}) {
  let response;
  try {
    response = await fetch(`api/${path}?${new URLSearchParams(parameters)}`, sent);
  } catch {
    throw new Error("no answer: `ramfleet explore` has ended, or the file cannot be read any more");
  }
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

function link(view, parameters = {}) {
  return `#/${view}?${new URLSearchParams(parameters)}`;
}

function number(value) {
  return value.toLocaleString("en");
}

function both(tag) {
  return tag.tag_zh ? `${tag.tag} · ${tag.tag_zh}` : tag.tag;
}

// A name as the query language reads it.
function written(name) {
  const plain = /^[\p{L}\p{N}_]+$/u.test(name) && !["AND", "OR", "NOT"].includes(name);
  return plain ? name : `"${name}"`;
}

function picture(id) {
  const frame = make("div", { class: "picture" });
  const image = make("img", { loading: "lazy", alt: "", src: `api/thumbnail?${new URLSearchParams({ id })}` });
  image.addEventListener("error", async () => {
    let why = "cannot be shown";
    try {
      await ask("thumbnail", { id });
    } catch (error) {
      if (!(error instanceof SyntaxError)) why = error.message;
    }
    image.replaceWith(make("span", { class: "why" }, why));
  });
  frame.append(image);
  return frame;
}

function tile(id, score, caption) {
  // Where a query asks for no tag, nothing is ranked.
  const shown = make("div", { class: "caption" }, score > 0 ? make("span", { class: "count" }, score.toFixed(3)) : null, make("span", { class: "what" }, caption));
  return make("li", {}, make("a", { class: "tile", href: link("image", { id }), "aria-label": `${id}: ${caption}` }, picture(id), shown));
}

function grid(tiles) {
  return make("ul", { class: "grid" }, ...tiles);
}

function hits(found) {
  return grid(found.map((hit) => tile(hit.image_id, hit.score, hit.tags.slice(0, 4).map((tag) => tag.tag).join(", "))));
}

// What takes longer comes when it is there, in its own place.
function later(answer, shown) {
  const place = make("div", { "aria-busy": "true", class: "later" });
  answer.then(shown, (error) => make("p", { class: "error" }, error.message)).then((content) => {
    place.replaceChildren(content);
    place.setAttribute("aria-busy", "false");
  });
  return place;
}

function pages(view, parameters, offset, size, total, unit) {
  const at = (to) => () => { location.hash = link(view, { ...parameters, offset: to }); };
  const last = Math.min(offset + size, total);
  const range = total === 0 ? `no ${unit}` : `${number(offset + 1)} to ${number(last)} of ${number(total)} ${unit}`;
  return make(
    "div", { class: "pages" },
    make("button", { type: "button", "data-go": "p", disabled: offset === 0, onclick: at(Math.max(0, offset - size)) }, "Previous"),
    make("button", { type: "button", "data-go": "n", disabled: last >= total, onclick: at(offset + size) }, "Next"),
    make("span", { class: "count" }, range),
  );
}

// ---------- views: each gives its title and what is shown

async function searchView(parameters) {
  const q = parameters.get("q") ?? "";
  const offset = Number(parameters.get("offset") ?? 0);
  const found = await ask("search", { q, offset, limit: PAGE });
  listed = found.hits.map((hit) => hit.image_id);
  lastResult = location.hash || "#/search";
  const facets = make("aside", { class: "facets", "aria-label": "Tags of the result" }, make("h2", {}, "Tags of the result"));
  facets.append(later(ask("facets", { q, limit: FACETS }), (all) => make("ul", {}, ...all.map((facet) => facetRow(q, facet)))));
  const found_images = make(
    "section", { "aria-label": "Images" },
    pages("search", { q }, offset, PAGE, found.total, "images"),
    hits(found.hits),
    found.hits.length > 12 ? pages("search", { q }, offset, PAGE, found.total, "images") : null,
  );
  return [q ? `${q}: ${number(found.total)} images` : `${number(found.total)} images`, make("div", { class: "result" }, facets, found_images)];
}

function facetRow(q, facet) {
  const held = q.trim() && q.trim() !== "*" ? (/\bOR\b/.test(q) || /score[:：]/i.test(q) ? `(${q.trim()})` : q.trim()) : "";
  const disabled = /["“”]/.test(facet.tag); // No query can hold it.
  const go = (sign) => () => { location.hash = link("search", { q: `${held} ${sign}${written(facet.tag)}`.trim() }); };
  return make(
    "li", {},
    make("button", { type: "button", disabled, onclick: go(""), title: `only images with ${facet.tag}` }, both(facet)),
    make("span", { class: "count" }, number(facet.images)),
    make("button", { type: "button", class: "not", disabled, onclick: go("-"), "aria-label": `without ${facet.tag}`, title: `only images without ${facet.tag}` }, "−"),
  );
}

async function imageView(parameters) {
  const id = parameters.get("id") ?? "";
  const image = await ask("image", { id });
  const near = later(ask("neighbours", { id }), (found) => found.length ? hits(found) : make("p", { class: "note" }, "None: no tag is over its threshold, or no other image has one of them."));
  const facts = [["id", image.image_id], ["address", image.uri], ["caption", image.caption],
    ["size", image.width && image.height ? `${image.width} × ${image.height}` : null], ["SHA-256", image.sha256]];
  const about = make("dl", {}, ...facts.filter(([, value]) => value).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
  const scores = make("ul", { class: "scores" }, ...image.scores.map(scoreRow));
  const back = make("p", {}, make("a", { href: lastResult }, "Back to the result"));
  return [image.image_id, make(
    "div", {},
    back,
    make("h1", {}, image.image_id),
    make(
      "div", { class: "image" },
      make("div", {}, picture(id), about),
      make("section", {}, make("h2", {}, "Stored scores"),
        make("p", { class: "note" }, "The line in a bar is the tag's threshold; grey tags are not over it. A tag leads to its threshold."), scores),
    ),
    make("section", {}, make("h2", {}, "Images with the same tags"), near),
  )];
}

function scoreRow(score, index, all, leads = true) {
  const bar = make("div", { class: "bar", role: "img", "aria-label": `score ${score.score.toFixed(3)}, threshold ${score.threshold.toFixed(3)}` }, make("i"), make("b"));
  bar.firstChild.style.width = `${100 * score.score}%`;
  bar.lastChild.style.left = `${100 * score.threshold}%`;
  const name = leads ? make("a", { href: link("threshold", { tag_id: score.tag_id }) }, both(score)) : make("span", { class: "name" }, both(score));
  return make("li", { class: score.fired ? "fired" : "silent" }, name, bar, make("span", { class: "number" }, score.score.toFixed(3)));
}

async function rejectsView(parameters) {
  const kinds = await ask("rejects");
  if (!kinds.length) return ["Rejects", make("p", { class: "note" }, "No image was rejected.")];
  const kind = parameters.get("kind") ?? kinds[0].kind;
  const offset = Number(parameters.get("offset") ?? 0);
  const page = await ask("rejects", { kind, offset, limit: REJECTS });
  const rows = kinds.map((each) => make(
    "tr", {},
    make("td", {}, make("a", { href: link("rejects", { kind: each.kind }), "aria-current": each.kind === kind ? "true" : null }, each.kind)),
    make("td", { class: "number" }, number(each.images)), make("td", {}, each.cause), make("td", {}, each.remedy),
  ));
  const images = page.rows.map((row) => make("tr", {}, make("td", {}, row.image_id), make("td", {}, row.uri), make("td", {}, row.error_detail ?? "")));
  return ["Rejects", make(
    "div", {},
    make("h1", {}, "Rejects"),
    make("div", { class: "kinds" }, table(["kind", "images", "cause", "remedy"], rows)),
    make("h2", {}, kind),
    pages("rejects", { kind }, offset, REJECTS, page.total, "images"),
    table(["id", "address", "what was said"], images),
  )];
}

function table(heads, rows) {
  return make("div", { class: "scroll" }, make("table", {}, make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))), make("tbody", {}, ...rows)));
}

async function thresholdView(parameters) {
  const tag_id = parameters.get("tag_id");
  const find = make("input", { type: "search", id: "tag", "aria-label": "Tag", placeholder: "a tag, in English or Chinese", autocomplete: "off" });
  const choices = make("ul", { class: "scores", id: "choices" });
  find.addEventListener("input", async () => {
    if (!find.value.trim()) return choices.replaceChildren();
    const typed = find.value;
    const found = await ask("complete", { start: typed, limit: 12 });
    if (find.value !== typed) return undefined;
    const tags = new Map(found.flatMap((entry) => entry.tags).map((tag) => [tag.tag_id, tag]));
    return choices.replaceChildren(...[...tags.values()].map((tag) => make("li", {}, make("a", { href: link("threshold", { tag_id: tag.tag_id }) }, both(tag)))));
  });
  const head = make("div", {}, make("h1", {}, "Try a threshold"), find, choices);
  if (tag_id === null) return ["Thresholds", make("div", {}, head, make("p", { class: "note" }, "Choose a tag: its stored scores are decided anew as the slider moves, without the model."))];
  const first = await ask("threshold", { tag_id, threshold: 0, limit: 0 });
  const trial = make("section", { id: "trial" });
  const bars = make("div");
  const range = make("input", { type: "range", min: 0, max: 1, step: 0.001, "aria-label": "Threshold" });
  const exact = make("input", { type: "number", min: 0, max: 1, step: 0.001, "aria-label": "Threshold, as a number" });
  let asked = 0;
  const decide = async (value) => {
    const mine = ++asked;
    let answer;
    try {
      answer = await ask("threshold", { tag_id, threshold: value });
    } catch (error) {
      answer = error;
    }
    if (mine !== asked) return;
    if (!(answer instanceof Error)) bars.replaceChildren(histogram(answer));
    trial.replaceChildren(...(answer instanceof Error ? [make("p", { class: "error" }, answer.message)] : trialParts(answer)));
  };
  range.addEventListener("input", () => { exact.value = range.value; decide(range.value); });
  exact.addEventListener("input", () => { range.value = exact.value; decide(exact.value); });
  // The run's threshold itself, not what a step of the slider makes of it.
  range.value = first.run_threshold;
  exact.value = Number(first.run_threshold.toPrecision(6));
  await decide(first.run_threshold);
  const reset = make("button", { type: "button", onclick: () => { range.value = first.run_threshold; exact.value = Number(first.run_threshold.toPrecision(6)); decide(first.run_threshold); } }, "Run's");
  return [first.tag, make("div", {}, head, make("h2", { id: "tag-name" }, both(first)), make("div", { class: "exact" }, exact, reset), make("div", { class: "slider" }, bars, range), trial)];
}

function histogram(answer) {
  const most = Math.max(1, ...answer.histogram);
  const bars = answer.histogram.map((count, place) => {
    const bar = make("i", { class: (place + 0.5) / answer.histogram.length > answer.threshold ? "over" : null, title: `${(place / answer.histogram.length).toFixed(2)}: ${number(count)}` });
    bar.style.height = `${(100 * count) / most}%`;
    return bar;
  });
  const cut = make("b");
  cut.style.left = `${100 * answer.threshold}%`;
  return make("div", { class: "histogram", role: "img", "aria-label": "Stored scores from 0 to 1, and the threshold among them" }, ...bars, cut);
}

function trialParts(answer) {
  const change = answer.images - answer.run_images;
  const sign = change > 0 ? "+" : "−";
  const compared = change === 0 ? "as in the run" : `${sign}${number(Math.abs(change))} against the run's ${number(answer.run_images)} at ${answer.run_threshold.toFixed(3)}`;
  const listOf = (found) => grid(found.map((each) => tile(each.image_id, each.score, each.image_id)));
  return [
    make("p", { class: "headline" }, make("span", { id: "decided" }, number(answer.images)), " images"),
    make("p", { class: "note" }, compared),
    answer.below_stored ? make("p", { class: "error" }, `Scores up to ${answer.lowest.toFixed(3)} were not all stored: there may be more images at this threshold. output.score_floor decides what a run stores.`) : null,
    answer.capped ? make("p", { class: "error" }, "Some images hold as many scores as output.top_k lets them: there may be more images at this threshold.") : null,
    make("h2", {}, "Just over: they would have the tag"), listOf(answer.over),
    make("h2", {}, "Just under: they would not"), listOf(answer.under),
  ].filter((part) => part !== null);
}

// ---------- a picture that no run has

let dropped = null; // The last one: its name, and what became of it.

function take(files) {
  const file = [...files][0];
  if (!file) return;
  dropped = { name: file.name, answer: looked(file) };
  dropped.answer.catch(() => {}); // It is shown by the view.
  if (/^#\/look\b/.test(location.hash)) show();
  else location.hash = link("look");
}

async function looked(file) {
  const run = await about;
  if (file.size > run.most_bytes) throw new Error(`${number(Math.ceil(file.size / 1e6))} MB are too many: a picture may have ${number(run.most_bytes / 1e6)} MB`);
  if (file.size === 0) throw new Error("the file is empty, or a folder");
  return ask("look", {}, { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });
}

async function lookView() {
  const chooser = make("input", { type: "file", id: "file", accept: "image/*,.jp2,.j2k,.ppm,.pgm,.pbm", class: "hidden", onchange: (event) => take(event.target.files) });
  const zone = make(
    "div", { class: "zone" },
    make("p", {}, make("label", { for: "file", class: "button" }, "Choose a picture"), chooser),
    make("p", { class: "note" }, "or drop one anywhere on this page, or paste it. It is tagged on this machine, and nothing of it is kept."),
  );
  const head = [make("h1", {}, "Try a picture"), zone];
  if (!dropped) return ["Try a picture", make("div", {}, ...head)];
  const waiting = `${dropped.name}: being tagged; the first picture waits for the model to be loaded`;
  status.textContent = waiting;
  main.replaceChildren(make("div", {}, ...head, make("p", { class: "note" }, waiting)));
  let answer;
  try {
    answer = await dropped.answer;
  } catch (error) {
    return ["Try a picture", make("div", {}, ...head, make("p", { class: "error", role: "alert" }, `${dropped.name}: ${error.message}`))];
  }
  return [dropped.name, make("div", {}, ...head, ...lookParts(dropped.name, answer))];
}

function lookParts(name, answer) {
  const bytes = Uint8Array.from(atob(answer.jpeg), (letter) => letter.charCodeAt(0));
  const image = make("img", { alt: "", src: URL.createObjectURL(new Blob([bytes], { type: "image/jpeg" })) });
  image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
  const tags = answer.scores.filter((score) => score.fired);
  const facts = [["file", name], ["model", `${answer.model.kind}${answer.model.demo ? ", demo: it knows drawn scenes only" : ""}`], ["tags", String(tags.length)]];
  const about = make("dl", {}, ...facts.flatMap(([what, value]) => [make("dt", {}, what), make("dd", {}, value)]));
  const near = answer.neighbours.length
    ? hits(answer.neighbours)
    : make("p", { class: "note" }, !answer.same_tags ? "This model has other tags than the run." : tags.length ? "None: no image of the run has one of its tags." : "None: no tag is over its threshold.");
  return [
    make(
      "div", { class: "image", id: "seen" },
      make("div", {}, make("div", { class: "picture" }, image), about),
      make("section", {}, make("h2", {}, "Scores"),
        make("p", { class: "note" }, answer.scores.length ? "The line in a bar is the tag's threshold; grey tags are not over it. Scores far below are left out." : "No score comes near its threshold."),
        make("ul", { class: "scores" }, ...answer.scores.map((score, index, all) => scoreRow(score, index, all, answer.same_tags)))),
    ),
    make("section", {}, make("h2", {}, "Images of the run with the same tags"), near),
  ];
}

const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
addEventListener("dragover", (event) => {
  if (!holdsFiles(event)) return;
  event.preventDefault();
  document.body.classList.add("dragging");
});
addEventListener("dragleave", (event) => { if (event.relatedTarget === null) document.body.classList.remove("dragging"); });
addEventListener("drop", (event) => {
  document.body.classList.remove("dragging");
  if (!holdsFiles(event)) return;
  event.preventDefault();
  take(event.dataTransfer.files);
});
addEventListener("paste", (event) => {
  if (!event.clipboardData?.files.length) return;
  event.preventDefault();
  take(event.clipboardData.files);
});

// ---------- from the address to a view

const VIEWS = { search: searchView, image: imageView, rejects: rejectsView, threshold: thresholdView, look: lookView };

async function show() {
  const mine = ++turn;
  const [, name = "search", text = ""] = /^#\/(\w+)(?:\?(.*))?$/s.exec(location.hash) ?? [];
  const parameters = new URLSearchParams(text);
  const view = VIEWS[name] ? name : "search";
  for (const each of document.querySelectorAll("[data-view]")) {
    if (each.dataset.view === view) each.setAttribute("aria-current", "page");
    else each.removeAttribute("aria-current");
  }
  if (view === "search") query.value = parameters.get("q") ?? "";
  closeNames();
  main.setAttribute("aria-busy", "true");
  let title, content;
  try {
    [title, content] = await VIEWS[view](parameters);
  } catch (error) {
    [title, content] = ["Error", make("p", { class: "error", role: "alert" }, error.message)];
  }
  if (mine !== turn) return;
  main.replaceChildren(content);
  main.setAttribute("aria-busy", "false");
  main.dataset.view = view;
  document.title = `${title} – ramfleet explore`;
  status.textContent = title;
  scrollTo(0, 0);
}

// ---------- completion of the name at the cursor

let typing = 0;

function typed() {
  const before = query.value.slice(0, query.selectionStart);
  const quotes = [...before.matchAll(/["“”]/g)];
  if (quotes.length % 2) return { from: quotes.at(-1).index, text: before.slice(quotes.at(-1).index + 1) };
  const bare = /[^\s()（）"“”]*$/u.exec(before)[0].replace(/^-/, "");
  return { from: before.length - bare.length, text: bare };
}

async function suggest() {
  const mine = ++typing;
  const { text } = typed();
  if (!text.trim() || text.startsWith("score:")) return closeNames();
  const found = await ask("complete", { start: text, limit: 10 }).catch(() => []);
  if (mine !== typing || document.activeElement !== query) return undefined;
  names.replaceChildren(...found.map((entry, place) => {
    const means = entry.tags.map((tag) => (tag.tag === entry.name ? tag.tag_zh : tag.tag)).filter(Boolean).join(", ") + (entry.more ? ", …" : "");
    const item = make("li", { role: "option", id: `name-${place}`, "aria-selected": "false" }, make("span", {}, entry.name), make("span", { class: "means" }, means));
    item.dataset.name = entry.name;
    item.addEventListener("mousedown", (event) => { event.preventDefault(); complete(entry.name); });
    return item;
  }));
  names.hidden = !found.length;
  query.setAttribute("aria-expanded", String(!names.hidden));
  query.removeAttribute("aria-activedescendant");
  return undefined;
}

function closeNames() {
  typing += 1;
  names.hidden = true;
  query.setAttribute("aria-expanded", "false");
  query.removeAttribute("aria-activedescendant");
}

function complete(name) {
  const { from } = typed();
  const rest = query.value.slice(query.selectionStart).replace(/^["”]/, "");
  const start = `${query.value.slice(0, from)}${written(name)} `;
  query.value = start + rest.trimStart();
  query.setSelectionRange(start.length, start.length);
  closeNames();
}

function choose(step) {
  const items = [...names.children];
  const now = items.findIndex((item) => item.getAttribute("aria-selected") === "true");
  const next = (now + step + items.length + (now < 0 && step < 0 ? 1 : 0)) % items.length;
  items.forEach((item, place) => item.setAttribute("aria-selected", String(place === next)));
  items[next].scrollIntoView({ block: "nearest" });
  query.setAttribute("aria-activedescendant", items[next].id);
}

query.addEventListener("input", suggest);
query.addEventListener("blur", closeNames);
query.addEventListener("keydown", (event) => {
  if (event.isComposing || names.hidden) return;
  const chosen = names.querySelector('[aria-selected="true"]');
  if (event.key === "ArrowDown" || event.key === "ArrowUp") choose(event.key === "ArrowDown" ? 1 : -1);
  else if (event.key === "Escape") closeNames();
  else if ((event.key === "Enter" || event.key === "Tab") && chosen) complete(chosen.dataset.name);
  else return;
  event.preventDefault();
  event.stopPropagation();
});

document.getElementById("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const to = link("search", { q: query.value.trim() });
  if (location.hash === to) show();
  else location.hash = to;
  closeNames();
});

// ---------- keys

function columns(tiles) {
  const top = tiles[0].getBoundingClientRect().top;
  const next = tiles.findIndex((each) => each.getBoundingClientRect().top > top);
  return next < 0 ? tiles.length : next;
}

function moveInGrid(key) {
  const within = document.activeElement?.closest(".grid") ?? main.querySelector(".grid");
  const tiles = within ? [...within.querySelectorAll(".tile")] : [];
  if (!tiles.length) return false;
  const now = tiles.indexOf(document.activeElement);
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns(tiles), ArrowUp: -columns(tiles) };
  const next = now < 0 ? 0 : now + steps[key];
  if (!tiles[next]) return false;
  tiles[next].focus();
  return true;
}

function besideImage(key) {
  const id = new URLSearchParams(location.hash.split("?")[1]).get("id");
  const next = listed[listed.indexOf(id) + (key === "ArrowRight" ? 1 : -1)];
  if (!listed.includes(id) || next === undefined) return false;
  location.hash = link("image", { id: next });
  return true;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input")) return;
  const view = main.dataset.view;
  let done = true;
  if (event.key === "/") { query.focus(); query.select(); }
  else if (event.key === "n" || event.key === "p") main.querySelector(`[data-go="${event.key}"]:enabled`)?.click();
  else if (event.key === "Escape" && view === "image") location.hash = lastResult;
  else if (["ArrowLeft", "ArrowRight"].includes(event.key) && view === "image" && !event.target.closest(".grid")) done = besideImage(event.key);
  else if (["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"].includes(event.key) && (view === "search" || event.target.closest(".grid"))) done = moveInGrid(event.key);
  else done = false;
  if (done) event.preventDefault();
});

// The address after # is the state, so that the link to the result cannot be one to an element.
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });

// ---------- a run that grows

const NEWS_MS = 15000;
const news = document.getElementById("news");

function describe(run) {
  const count = `${number(run.images)} images${run.status === "growing" ? " so far" : ""}`;
  document.getElementById("about").textContent = `${run.run} · ${count}${run.demo ? " · demo model: tags of real photographs mean nothing" : ""}`;
  return run;
}

async function watch() {
  if (!document.hidden && !news.disabled) {
    const { chunks, complete } = await ask("news").catch(() => ({ chunks: 0, complete: false }));
    news.hidden = chunks === 0 && !complete;
    news.textContent = complete ? "the run is complete: show" : `${number(chunks)} new ${chunks === 1 ? "chunk" : "chunks"}: show`;
  }
  setTimeout(watch, NEWS_MS);
}

news.addEventListener("click", async () => {
  news.disabled = true;
  news.textContent = "taking in …";
  try {
    const run = describe(await ask("renew", {}, { method: "POST" }));
    news.hidden = true;
    status.textContent = `${number(run.images)} images`;
    await show();
  } catch (error) {
    news.textContent = error.message;
  } finally {
    news.disabled = false;
  }
});

const about = ask("run").then(describe);
about.then((run) => { if (run.status === "growing") watch(); }, () => {});
addEventListener("hashchange", show);
show();
