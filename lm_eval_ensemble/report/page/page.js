"use strict";
// Everything that comes from a run reaches the page as text (textContent, title), never as markup.
(() => {
const $ = (id) => document.getElementById(id);
const sources = [...document.querySelectorAll("script.data")];
const overviews = [...document.querySelectorAll(".overview[data-task]")], compared = $("compared");
const tasks = sources.map(() => null);
const state = { task: 0, view: "overview", doc: null, filters: {}, repeat: 0, mode: null };
let shown = [];
const ROW = 54;
const MODES = ["differences", "log-probabilities", "plain"];

// ---- small tools

function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [kind, call] of Object.entries(value)) node.addEventListener(kind, call);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(4).filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

// Characters that cannot be seen, or that turn the direction of writing, get a visible sign.
function visible(text) {
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, (c) => {
    const code = c.charCodeAt(0);
    if (code < 32) return String.fromCharCode(0x2400 + code);
    return code === 127 ? "\u2421" : "\u27e8U+" + code.toString(16).toUpperCase().padStart(4, "0") + "\u27e9";
  });
}
const fixed = (value, digits) => value === null || value === undefined ? "-" : value.toFixed(digits).replace("-", "\u2212");
const plural = (n, word) => n.toLocaleString("en") + " " + word + (n === 1 ? "" : "s");
const firstLine = (text) => text.trim().split("\n", 1)[0].slice(0, 200);

function task() {
  const at = state.task;
  if (tasks[at] === null) {
    const { facts, documents } = JSON.parse(sources[at].textContent);
    tasks[at] = { ...facts, documents, byId: new Map(documents.map((d, k) => [d.i, k])), haystack: [] };
  }
  return tasks[at];
}

// ---- what a document is

const last = (d) => d.k ? d.k[Math.min(state.repeat, d.k.length - 1)] : null;
const gap = (d) => {
  if (!d.w) return null;
  const text = task().strings[d.w[0]];
  return { prefix: text.slice(0, d.w[1]), middle: text.slice(d.w[1], d.w[2]), suffix: text.slice(d.w[2]) };
};
const prompt = (d) => d.c === undefined ? null : (d.b ? task().head : "") + task().strings[d.c];
const answer = (d) => d.u ? d.u.a : d.k ? d.k[0].c[d.k[0].w].t : d.h ? best(d) : d.a ? d.a[0] || "" : "";
const best = (d) => d.h.reduce((a, b) => (b[1] ?? -Infinity) > (a[1] ?? -Infinity) ? b : a)[0];
const title = (d) => d.n ?? "document " + d.i;
const mark = (d) => !task().share ? "" : d.v >= 1 ? "right" : d.v <= 0 ? "wrong" : "partly";
const SIGN = { right: "\u2713", wrong: "\u2717", partly: "\u223c", "": "\u00b7" };

function haystack(k) {
  const { documents, haystack: kept, strings } = task();
  if (kept[k] === undefined) {
    const d = documents[k], parts = [d.i, d.n, d.p, d.q, d.t, ...(d.a || [])];
    if (d.w) parts.push(strings[d.w[0]]);
    if (d.c !== undefined) parts.push(strings[d.c]);
    for (const completion of d.k || []) for (const c of completion.c) parts.push(c.t, c.a, c.x);
    if (d.u) parts.push(d.u.a, ...d.u.t, ...d.u.m);
    for (const option of d.h || []) parts.push(option[0]);
    kept[k] = parts.filter((part) => part !== null && part !== undefined).join("\n").toLowerCase();
  }
  return kept[k];
}

// ---- filters: name, label, what a document has of it (a list), and in which order the values stand

const LENGTHS = [10, 20, 40, 80, 160];
const lengthBin = (n) => {
  const k = LENGTHS.filter((end) => n >= end).length, low = k ? LENGTHS[k - 1] : 0;
  return k === LENGTHS.length ? low + " or more" : low + " to " + (LENGTHS[k] - 1);
};
const byNumber = (a, b) => parseFloat(a) - parseFloat(b);

function who(d) {
  const found = new Set();
  for (const { w, c } of d.k) {
    const good = c.filter((x) => x.k), names = new Set(good.map((x) => task().members[x.o]));
    if (good.length === 0) found.add("none right");
    else if (good.length === c.length) found.add("all right");
    else {
      found.add(c[w].k ? "right choice" : "wrong choice");
      if (names.size === 1 && task().members.length > 1) found.add("only " + [...names][0]);
    }
  }
  return [...found];
}

const FILTERS = [
  { name: "is", label: "Answer", of: (d) => mark(d) ? [mark(d)] : [] },
  { name: "who", label: "Who was right", of: (d) => d.k && task().members.length > 1 ? who(d) : [] },
  { name: "winner", label: "Winner", of: (d) => d.k ? d.k.map((c) => c.r === "agreement" ? "agreement" : task().members[c.c[c.w].o]) : [] },
  { name: "reason", label: "Reason", of: (d) => d.k ? d.k.map((c) => c.r) : [] },
  { name: "why", label: "Failure", of: (d) => d.k ? d.k.map((c) => c.c[c.w].f).filter(Boolean) : [] },
  { name: "stop", label: "Ended by", of: (d) => d.u && d.u.d.stop_kind ? [d.u.d.stop_kind] : [] },
  { name: "length", label: "Length", of: (d) => d.l === undefined ? [] : [lengthBin(d.l)], order: byNumber },
  { name: "problem", label: "Problem", of: (d) => d.p === undefined ? [] : [d.p], order: (a, b) => a.localeCompare(b, "en", { numeric: true }) },
];
const sureness = (d) => d.u ? d.s?.g_nll : d.k?.[0].g;
const SORTS = {
  file: ["as in the file", null],
  sure: ["least certain first", (a, b) => state.sign * ((sureness(a) ?? Infinity) - (sureness(b) ?? Infinity))],
  unsure: ["most certain first", (a, b) => -state.sign * ((sureness(a) ?? -Infinity) - (sureness(b) ?? -Infinity))],
  short: ["shortest first", (a, b) => (a.l ?? 0) - (b.l ?? 0)],
  long: ["longest first", (a, b) => (b.l ?? 0) - (a.l ?? 0)],
};

function choose() {
  const { documents } = task(), f = state.filters;
  const words = (f.q || "").toLowerCase().split(/\s+/).filter(Boolean);
  const active = FILTERS.filter(({ name }) => f[name]);
  shown = [];
  documents.forEach((d, k) => {
    if (active.every(({ name, of }) => of(d).includes(f[name])) && words.every((word) => haystack(k).includes(word))) shown.push(k);
  });
  const order = SORTS[f.sort]?.[1];
  // A margin is certainty, a negative log-likelihood the opposite.
  state.sign = documents.some((d) => d.u) ? -1 : 1;
  if (order) {
    const known = f.sort === "sure" || f.sort === "unsure" ? (k) => typeof sureness(documents[k]) === "number" : () => true;
    shown = [...shown.filter(known).sort((a, b) => order(documents[a], documents[b]) || a - b), ...shown.filter((k) => !known(k))];
  }
}

function drawFilters() {
  const { documents } = task(), f = state.filters, box = $("selects");
  box.replaceChildren();
  const add = (name, label, options) => {
    const select = el("select", { id: "f-" + name, on: { change: (event) => setFilter(name, event.target.value) } },
      options.map(([value, text]) => el("option", { value }, text)));
    select.value = f[name] || "";
    box.append(el("label", {}, el("span", {}, label), select));
  };
  for (const { name, label, of, order } of FILTERS) {
    const counts = new Map();
    for (const d of documents) for (const value of new Set(of(d))) counts.set(value, (counts.get(value) || 0) + 1);
    if (f[name] && !counts.has(f[name])) counts.set(f[name], 0);
    if (counts.size < 2) continue;
    const values = [...counts.keys()].sort(order || ((a, b) => counts.get(b) - counts.get(a)));
    add(name, label, [["", "any"], ...values.map((value) => [value, visible(value) + " (" + counts.get(value) + ")"])]);
  }
  const known = documents.some((d) => typeof sureness(d) === "number");
  add("sort", "Order", Object.entries(SORTS).filter(([name]) => known || !name.includes("sure")).map(([name, [text]]) => [name === "file" ? "" : name, text]));
  if (Object.values(f).some(Boolean)) box.append(el("button", { type: "button", id: "clear", on: { click: () => { state.filters = {}; apply(); } } }, "Clear all"));
  const n = Object.entries(f).filter(([name, value]) => value && name !== "q" && name !== "sort").length;
  $("active").textContent = n ? "(" + n + ")" : "";
  if ($("search").value !== (f.q || "")) $("search").value = f.q || "";
}

function setFilter(name, value) {
  if (value) state.filters[name] = value; else delete state.filters[name];
  apply();
}

// The first sample of a new selection is shown beside the list; on narrow screens only the list is.
function apply() {
  choose();
  const at = state.doc === null ? -1 : shown.indexOf(task().byId.get(state.doc));
  if (at < 0 && wide()) state.doc = shown.length ? task().documents[shown[0]].i : null;
  write(true);
  drawFilters();
  drawList(true);
  drawDetail();
}
const wide = () => matchMedia("(min-width: 900px)").matches;

// ---- the list: rows of one height, only those in view exist

function drawList(toCurrent) {
  const { documents } = task(), list = $("list");
  $("count").textContent = shown.length === documents.length ? plural(documents.length, "sample") : shown.length.toLocaleString("en") + " of " + plural(documents.length, "sample");
  $("rows").style.height = shown.length * ROW + "px";
  if (toCurrent && state.doc !== null) {
    const at = shown.indexOf(task().byId.get(state.doc)), top = at * ROW;
    if (at >= 0 && (top < list.scrollTop || top + ROW > list.scrollTop + list.clientHeight)) list.scrollTop = top - list.clientHeight / 3;
  }
  drawRows();
}

function drawRows() {
  const list = $("list"), first = Math.max(0, Math.floor(list.scrollTop / ROW) - 8);
  const end = Math.min(shown.length, first + Math.ceil((list.clientHeight || 600) / ROW) + 16);
  const focused = document.activeElement?.closest?.("#rows li")?.dataset.at;
  $("rows").replaceChildren(...shown.slice(first, end).map((k, n) => drawRow(task().documents[k], first + n)));
  if (focused !== undefined) $("rows").querySelector('li[data-at="' + Number(focused) + '"] a')?.focus({ preventScroll: true });
}

function drawRow(d, at) {
  const kind = mark(d), dots = d.k && task().members.length > 1
    ? el("span", { class: "dots" }, d.k[0].c.slice(0, 8).map((c, n) => el("i", { class: (c.k ? "right" : "wrong") + (n === d.k[0].w ? " chosen" : ""), title: visible(task().members[c.o]) + (c.k ? ": right" : ": wrong") + (n === d.k[0].w ? ", chosen" : "") })))
    : null;
  const row = el("li", { "data-at": at, "aria-setsize": shown.length, "aria-posinset": at + 1 },
    el("a", { href: address(d.i), "aria-current": d.i === state.doc ? "true" : null },
      el("span", { class: "sign " + kind, title: kind || "value " + d.v }, SIGN[kind], kind ? el("span", { class: "sr" }, kind) : null),
      el("span", { class: "name" }, visible(d.q !== undefined ? firstLine(d.q) : title(d))), dots,
      el("code", { class: "preview" }, visible(firstLine(answer(d))) || "\u00a0")));
  row.style.top = at * ROW + "px";
  return row;
}

// ---- differences: words, by the longest common subsequence, at most 4 million cells

function words(text) { return text.match(/[\p{L}\p{N}_]+|\s|[^\p{L}\p{N}_\s]/gu) || []; }

function differences(text, other) {
  const a = words(text), b = words(other), n = a.length, m = b.length;
  if (n * m > 4e6) return null;
  const table = Array.from({ length: n + 1 }, () => new Uint16Array(m + 1));
  for (let i = n - 1; i >= 0; i--) for (let j = m - 1; j >= 0; j--) table[i][j] = a[i] === b[j] ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
  const parts = [];
  const put = (piece, same) => { const end = parts[parts.length - 1]; if (end && end[1] === same) end[0] += piece; else parts.push([piece, same]); };
  for (let i = 0, j = 0; i < n;) {
    if (j < m && a[i] === b[j]) { put(a[i], true); i++; j++; }
    else if (j < m && table[i][j + 1] >= table[i + 1][j]) j++;
    else put(a[i++], false);
  }
  return parts;
}

function marked(text, other) {
  const parts = other === null ? null : differences(text, other);
  if (!parts) return [visible(text)];
  return parts.map(([piece, same]) => same ? visible(piece) : el("mark", {}, visible(piece)));
}

// ---- tokens coloured by log-probability

const STEPS = [0.1, 0.5, 1, 2, 4];
function tokens(x) {
  return x.z.map((piece, k) => {
    const nll = x.y[k] === null ? null : -x.y[k];
    const step = nll === null ? 0 : STEPS.filter((end) => nll >= end).length;
    const told = visible(JSON.stringify(piece)) + (nll === null ? "" : "  " + fixed(-nll, 3) + " nats, p " + Math.exp(-nll).toPrecision(2));
    return el("span", { class: "tok t" + step, title: told }, visible(piece).replace(/\n/g, "\u21b5\n"));
  });
}
function scale() {
  const names = ["under 0.1", "0.1", "0.5", "1", "2", "4 or more"];
  return el("p", { class: "scale" }, "nats: ", names.map((name, k) => el("span", { class: "tok t" + k }, name)));
}
function code(content, extra) { return el("pre", { class: "code " + (extra || ""), tabindex: 0, on: { click: tell } }, el("code", {}, content)); }
// Titles cannot be read by touch: the number stands below the text too.
function tell(event) {
  const token = event.target.closest(".tok"), box = event.currentTarget.parentNode;
  if (!token || !token.title) return;
  let line = box.querySelector(".told");
  if (!line) { line = el("p", { class: "told", role: "status" }); event.currentTarget.after(line); }
  line.textContent = token.title;
}

// ---- one sample

function drawDetail() {
  const box = $("detail"), { documents, byId } = task();
  document.body.classList.toggle("open", state.doc !== null);
  const d = documents[byId.get(state.doc)];
  if (!d) {
    box.replaceChildren(el("p", { class: "empty" }, state.doc === null ? (documents.length ? "Choose a sample." : "This run has no samples. Run lm_eval with --log_samples.") : "There is no sample " + visible(state.doc) + " here."), el("a", { class: "back", href: address(null) }, "Back to the list"));
    return;
  }
  const at = shown.indexOf(byId.get(state.doc)), kind = mark(d);
  const step = (by, text, label) => { const k = at < 0 ? undefined : shown[at + by]; return el("a", { class: "step", href: k === undefined ? null : address(documents[k].i), "aria-label": label, "aria-disabled": k === undefined ? "true" : null }, text); };
  const head = el("header", {},
    el("a", { class: "back", href: address(null) }, "\u2190 list"),
    el("h2", {}, visible(title(d))), kind ? badge(kind, kind) : null,
    el("nav", { "aria-label": "Samples" }, el("span", { class: "place" }, at < 0 ? "not in this selection" : at + 1 + " of " + shown.length), step(-1, "\u2191", "Previous sample"), step(1, "\u2193", "Next sample")));
  box.replaceChildren(head, ...(d.w ? infill(d) : d.u ? question(d) : plain(d)));
}

const badge = (kind, text) => el("span", { class: "badge " + kind }, kind === "right" ? "\u2713 " : kind === "wrong" ? "\u2717 " : "", text);

function facts(pairs) { return el("dl", { class: "facts" }, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, typeof value === "string" ? visible(value) : value)))); }
const problemLink = (d) => d.p === undefined ? null : el("a", { href: address(null, { problem: d.p }) }, visible(d.p));

function modeSwitch(withTokens, withDifferences) {
  const usable = MODES.filter((mode) => mode === "plain" || (mode === "differences" ? withDifferences : withTokens));
  if (usable.length < 2) return [usable[0], null];
  const mode = usable.includes(state.mode) ? state.mode : usable[0];
  const pick = (name) => el("button", { type: "button", "aria-pressed": name === mode ? "true" : "false", on: { click: () => { state.mode = name; drawDetail(); } } }, name);
  return [mode, el("div", { class: "modes", role: "group", "aria-label": "Show" }, usable.map(pick))];
}

function context(text, name, fromEnd) {
  const lines = text.split("\n"), most = 14;
  if (lines.length <= most + 4) return text ? [el("h3", {}, name), code(visible(text), "around")] : [];
  const some = fromEnd ? lines.slice(-most) : lines.slice(0, most);
  const block = code(visible(some.join("\n")), "around");
  const more = el("button", { type: "button", class: "more", on: { click: () => { block.firstChild.textContent = visible(text); more.remove(); } } }, "all " + lines.length + " lines");
  return [el("h3", {}, name, more), block];
}

// What all lines of all texts are indented by; narrow columns have no room for it. Gaps inside a line have none.
function indentation(texts) {
  const lines = texts.flatMap((text) => text.split("\n")).filter((line) => line.trim());
  const least = lines.length ? Math.min(...lines.map((line) => /^ */.exec(line)[0].length)) : 0;
  return least < 4 ? 0 : least;
}
const dedented = (text, by) => by ? text.split("\n").map((line) => line.slice(0, by).trim() ? line : line.slice(by)).join("\n") : text;

function infill(d) {
  const { prefix, middle, suffix } = gap(d), one = last(d), { members } = task();
  const cards = [], list = one ? one.c : (d.a || []).map((text) => ({ t: text }));
  const [mode, control] = modeSwitch(list.some((c) => c.z), list.length > 1 || Boolean(middle));
  const by = mode === "log-probabilities" ? 0 : indentation([...list.map((c) => c.t), middle]), put = (text) => dedented(text, by);
  const rival = (n) => list.length < 2 ? middle || null : n !== one?.w ? list[one ? one.w : 0].t : list[n === 0 ? 1 : 0].t;
  list.forEach((c, n) => {
    const chosen = one && list.length > 1 && n === one.w;
    const asTokens = mode === "log-probabilities" && c.z;
    const name = c.o === undefined ? "answer" : members[c.o];
    const right = c.k === undefined ? mark(d) === "right" : Boolean(c.k), known = c.k !== undefined || mark(d) === "right" || mark(d) === "wrong";
    const told = c.d || {};
    cards.push(el("section", { class: "card" + (chosen ? " chosen" : ""), "aria-label": visible(name) },
      el("h3", {}, el("span", { class: "who m" + (c.o ?? 0) % 6 }, visible(name)), chosen ? badge("", "chosen") : null, known ? badge(right ? "right" : "wrong", right ? "right" : "wrong") : null),
      code(asTokens ? tokens(c) : mode === "differences" ? marked(put(c.t), rival(n) === null ? null : put(rival(n))) : visible(put(c.t))),
      c.x ? el("p", { class: "why" }, visible(c.x)) : null,
      c.a !== undefined && !asTokens ? el("details", {}, el("summary", {}, "as written, before the cut"), code(visible(c.a))) : null,
      facts([["tokens", c.z ? String(c.z.length) : null], ["ended by", told.stop?.replace("_", " ")], ["row-forwards", told.row_forwards === undefined ? null : String(told.row_forwards)], ["length", c.z || told.length === undefined ? null : plural(told.length, "token")]])));
  });
  if (middle) cards.push(el("section", { class: "card reference", "aria-label": "reference" }, el("h3", {}, "reference"), code(visible(put(middle)))));
  const repeats = d.k && d.k.length > 1 ? el("label", { class: "repeat" }, "completion ", el("select", { on: { change: (e) => { state.repeat = Number(e.target.value); drawDetail(); } } }, d.k.map((_, n) => el("option", { value: n, selected: n === Math.min(state.repeat, d.k.length - 1) }, n + 1 + " of " + d.k.length)))) : null;
  const head = one && list.length > 1
    ? [["winner", members[one.c[one.w].o]], ["reason", one.r], ["rule", one.u], ["margin", one.g === null || one.g === undefined ? null : fixed(one.g, 3) + " nats"]] : [];
  const test = d.e === undefined ? null : el("details", { class: "test" }, el("summary", {}, "Test"), code(visible(task().strings[d.e]), "around"));
  return [facts([["problem", problemLink(d)], ["document", d.i], ["length", d.l === undefined ? null : d.l + " characters"], ...head]), repeats,
    ...context(prefix, "Prefix", true), control || by ? el("div", { class: "row" }, control, by ? el("span", { class: "caption" }, "without the common indentation of " + by + " spaces") : null) : null, mode === "log-probabilities" ? scale() : null, el("div", { class: "cards" }, cards),
    ...context(suffix, "Suffix", false), one ? scores(one) : null, test].filter(Boolean);
}

function scores(one) {
  const names = [...new Set(one.c.flatMap((c) => Object.keys(c.s || {})))];
  if (!names.length) return null;
  const { members } = task(), several = one.c.length > 1;
  const head = el("tr", {}, el("th", { scope: "col" }, "score"), one.c.map((c) => el("th", { scope: "col" }, visible(members[c.o]))), several ? el("th", { scope: "col", class: "lowest" }, "lowest") : null);
  const rows = names.map((name) => {
    const values = one.c.map((c) => c.s?.[name] ?? null), least = Math.min(...values.filter((v) => v !== null));
    const first = values.filter((v) => v === least).length === 1 ? values.indexOf(least) : -1;
    return el("tr", { class: name === one.u ? "rule" : null }, el("th", { scope: "row" }, visible(name), name === one.u ? " (decides)" : ""),
      values.map((v) => el("td", { class: several && v === least && first >= 0 ? "least" : null }, fixed(v, 3))), several ? el("td", { class: "lowest" }, first < 0 ? "-" : visible(members[one.c[first].o])) : null);
  });
  return el("section", {}, el("h3", {}, "Scores"), el("p", { class: "caption" }, "Nats, lower is better. Each row is comparable within itself, but own: there every model scores its own text."),
    el("div", { class: "scroll" }, el("table", {}, el("thead", {}, head), el("tbody", {}, rows))));
}

const listed = (texts) => texts.length ? el("ul", { class: "gold" }, texts.map((text) => el("li", {}, visible(text)))) : null;

function question(d) {
  const u = d.u, [mode, control] = modeSwitch(Boolean(u.z), false), kind = mark(d);
  const rank = (name) => {
    const all = task().documents.map((x) => x.s?.[name]).filter((v) => typeof v === "number");
    return all.filter((v) => v > d.s[name]).length + 1 + " of " + all.length;
  };
  const stop = u.e === undefined || u.e === null ? null : el("span", { class: "tok stop t" + STEPS.filter((end) => -u.e >= end).length, title: "stop  " + fixed(u.e, 3) + " nats, p " + Math.exp(u.e).toPrecision(2) }, "stop");
  const known = Object.entries(d.s || {});
  const whole = prompt(d);
  return [facts([["document", d.i], ["ended by", u.d.stop_kind], ["F1", fixed(u.d.f1, 2)], ["exact match", u.d.em === undefined ? null : String(u.d.em)], ["ROUGE-L", fixed(u.d.rougeL, 2)], ["p(true)", u.d.p_true === undefined ? null : fixed(u.d.p_true, 3)]]),
    el("p", { class: "question" }, visible(d.q || "")),
    control ? el("div", { class: "row" }, control) : null, mode === "log-probabilities" ? scale() : null,
    el("div", { class: "cards" },
      el("section", { class: "card chosen", "aria-label": "answer" }, el("h3", {}, "answer", kind ? badge(kind, kind) : null),
        code(mode === "log-probabilities" ? [tokens(u), stop] : u.a ? visible(u.a) : "(empty)", "prose"), u.d.truncated ? el("p", { class: "why" }, "truncated") : null),
      el("section", { class: "card reference", "aria-label": "accepted answers" }, el("h3", {}, "accepted answers"), u.t.length ? [listed(u.t.slice(0, 6)), u.t.length > 7 ? el("details", {}, el("summary", {}, u.t.length - 6 + " more"), listed(u.t.slice(6))) : listed(u.t.slice(6))] : el("p", {}, u.d.answerable === false ? "The question has no answer." : "none"))),
    u.m.length ? el("details", {}, el("summary", {}, plural(u.m.length, "sampled answer")), listed(u.m)) : null,
    known.length ? el("section", {}, el("h3", {}, "Uncertainty"), el("p", { class: "caption" }, "Higher is less certain; rank 1 is the least certain answer of the run."),
      el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ["score", "value", "rank"].map((name) => el("th", { scope: "col" }, name)))),
        el("tbody", {}, known.map(([name, value]) => el("tr", {}, el("th", { scope: "row" }, visible(name)), el("td", {}, fixed(value, 3)), el("td", {}, value === null ? "-" : rank(name)))))))) : null,
    whole === null ? null : el("details", { class: "test" }, el("summary", {}, "Prompt"), code(visible(whole), "around prose"))].filter(Boolean);
}

function plain(d) {
  const kind = mark(d), top = d.h ? best(d) : null, whole = prompt(d);
  const target = /^\d+$/.test(d.t || "") ? Number(d.t) : null;
  const metrics = Object.entries(d.m || {}).map(([name, value]) => [visible(name), String(value)]);
  const answers = d.h
    ? el("section", { class: "card" }, el("h3", {}, "options"), el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ["option", "log-likelihood"].map((t) => el("th", { scope: "col" }, t)))),
      el("tbody", {}, d.h.map(([text, value], n) => el("tr", { class: text === top ? "rule" : null }, el("th", { scope: "row" }, visible(text), n === target ? badge("right", "reference") : null, text === top ? badge("", "chosen") : null), el("td", {}, fixed(value, 3))))))))
    : el("section", { class: "card chosen" }, el("h3", {}, "answer", kind ? badge(kind, kind) : null), (d.k ? d.k.map((c) => c.c[c.w].t) : d.a || [""]).map((text) => code(visible(text) || "(empty)", "prose")));
  const reference = d.t !== undefined && !d.h ? el("section", { class: "card reference" }, el("h3", {}, "reference"), code(visible(d.t), "prose")) : null;
  return [facts([["document", d.i], ["problem", problemLink(d)], ...metrics]),
    ...(whole === null ? [] : context(whole, "Prompt", true)), el("div", { class: "cards" }, answers, reference)];
}

// ---- the address: #TASK, #TASK/, #TASK/DOCUMENT, each with ?filter=value&...

function address(doc, filters) {
  const query = new URLSearchParams(filters || state.filters).toString();
  return "#" + encodeURIComponent(task().key) + "/" + (doc === null ? "" : encodeURIComponent(doc)) + (query ? "?" + query : "");
}
function write(replace) {
  const to = state.view === "overview" ? "#" + encodeURIComponent(task().key) : address(state.doc);
  if (to === location.hash) return;
  if (replace) history.replaceState(null, "", to); else location.hash = to;
}
function decoded(text) { try { return decodeURIComponent(text); } catch { return text; } }

function read() {
  const [path, query] = location.hash.slice(1).split(/\?(.*)/s), cut = path.indexOf("/");
  const name = decoded(cut < 0 ? path : path.slice(0, cut));
  state.task = Math.max(0, sources.findIndex((source) => source.dataset.key === name));
  state.view = compared && !path ? "compared" : cut < 0 ? "overview" : "samples";
  state.doc = cut >= 0 && path.length > cut + 1 ? decoded(path.slice(cut + 1)) : null;
  state.filters = Object.fromEntries(new URLSearchParams(query || ""));
  draw();
}

function draw() {
  if (!sources.length) return;
  const samples = state.view === "samples";
  if ($("task")) $("task").value = String(state.task);
  overviews.forEach((node, k) => { node.hidden = state.view !== "overview" || k !== state.task; });
  if (compared) compared.hidden = state.view !== "compared";
  $("samples").hidden = !samples;
  document.body.classList.toggle("browsing", samples);
  $("to-overview").href = "#" + encodeURIComponent(task().key);
  $("to-samples").href = address(null, {});
  $("to-samples").textContent = "Samples (" + task().documents.length.toLocaleString("en") + ")";
  for (const [id, on] of [["to-compared", state.view === "compared"], ["to-overview", state.view === "overview"], ["to-samples", samples]]) if (!$(id)) continue; else if (on) $(id).setAttribute("aria-current", "page"); else $(id).removeAttribute("aria-current");
  if (!samples) { document.body.classList.remove("open"); return; }
  choose();
  if (state.doc === null && wide() && shown.length) { state.doc = task().documents[shown[0]].i; write(true); }
  drawFilters();
  drawList(true);
  drawDetail();
}

function move(by) {
  if (state.view !== "samples") return;
  const at = state.doc === null ? -1 : shown.indexOf(task().byId.get(state.doc));
  const to = at < 0 ? 0 : Math.max(0, Math.min(shown.length - 1, at + by));
  if (!shown.length || to === at) return;
  state.doc = task().documents[shown[to]].i;
  write(true);
  drawList(true);
  drawDetail();
  scrollTo(0, 0);
}

function theme() {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  try { localStorage.setItem("lm-eval-ensemble-theme", document.documentElement.dataset.theme); } catch { /* files may have no storage */ }
}
try { const kept = localStorage.getItem("lm-eval-ensemble-theme"); if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept; } catch { /* as above */ }

const KEYS = {
  j: () => move(1), ArrowDown: () => move(1), k: () => move(-1), ArrowUp: () => move(-1),
  "/": () => { if (state.view !== "samples") location.hash = address(null, {}); $("search").focus(); $("search").select(); },
  "?": () => $("help").showModal(), t: theme,
  o: () => { location.hash = encodeURIComponent(task().key); }, s: () => { if (state.view !== "samples") location.hash = address(null, {}); },
  v: () => { const buttons = [...document.querySelectorAll(".modes button")], on = buttons.findIndex((b) => b.getAttribute("aria-pressed") === "true"); if (buttons.length) buttons[(on + 1) % buttons.length].click(); },
  Escape: () => { if (!wide() && state.doc !== null) { state.doc = null; write(false); drawDetail(); } },
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open || !sources.length) return;
  const typing = event.target.closest?.("input, select, textarea");
  if (typing) { if (event.key === "Escape") event.target.blur(); return; }
  if (event.key.startsWith("Arrow") && (state.view !== "samples" || event.target.closest?.("pre"))) return;
  const act = KEYS[event.key];
  if (act) { event.preventDefault(); act(); }
});

let waiting = 0;
$("search").addEventListener("input", (event) => { clearTimeout(waiting); waiting = setTimeout(() => setFilter("q", event.target.value.trim()), 120); });
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("list").addEventListener("scroll", () => requestAnimationFrame(drawRows), { passive: true });
addEventListener("resize", () => { if (state.view === "samples") drawRows(); });
$("theme").addEventListener("click", theme);
$("help-open").addEventListener("click", () => $("help").showModal());
if ($("task")) $("task").addEventListener("change", (event) => { state.task = Number(event.target.value); location.hash = state.view === "samples" ? address(null, {}) : encodeURIComponent(task().key); });
document.querySelectorAll(".mosaic a").forEach((link) => link.addEventListener("click", (event) => {
  event.preventDefault();
  location.hash = address(null, { problem: link.dataset.problem });
}));
addEventListener("hashchange", read);
$("more-filters").open = wide();
read();
})();
