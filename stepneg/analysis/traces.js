// The page of `stepneg traces`. What a model or a problem wrote goes into the page as text nodes only.

const data = JSON.parse(document.getElementById("data").textContent);
const { problems, solutions, pairs, parts } = data;
const ROW = 74; // height of a row in the list, in pixels, as in the style
const SPARE = 6; // rows drawn above and below what is seen
const SMALL = 0.005; // an advantage that shows as 0.00
const PHONE = matchMedia("(max-width: 760px)");
const byId = (id) => document.getElementById(id);

// --- text and elements

// Characters that do not show, or that change how others show: controls, bidirectional marks, line separators, halves of
// surrogate pairs. Joiners (U+200C, U+200D) stay, which scripts and emoji need, and so do newlines and tabs.
const UNSEEN = /(?![\n\t\u200c\u200d])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;
const NAMES = {
  0x00: "NUL", 0x07: "BEL", 0x08: "BS", 0x0d: "CR", 0x1b: "ESC", 0x7f: "DEL", 0xad: "SHY", 0x61c: "ALM",
  0x200b: "ZWSP", 0x200e: "LRM", 0x200f: "RLM", 0x2028: "LS", 0x2029: "PS", 0x202a: "LRE", 0x202b: "RLE",
  0x202c: "PDF", 0x202d: "LRO", 0x202e: "RLO", 0x2066: "LRI", 0x2067: "RLI", 0x2068: "FSI", 0x2069: "PDI",
  0xfeff: "BOM",
};

/** The code point of an unseen character: U+202E. */
function codePoint(character) {
  return "U+" + character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
}

/** A text for places that hold no elements, such as titles: unseen characters are named. */
function plain(text) {
  return String(text).replace(UNSEEN, (c) => `[${NAMES[c.codePointAt(0)] ?? codePoint(c)}]`);
}

/** A text for the page, unseen characters as small labels, and the words of the search marked. */
function shown(text) {
  const fragment = document.createDocumentFragment();
  let done = 0;
  for (const { index, 0: character } of text.matchAll(UNSEEN)) {
    fragment.append(...marked(text.slice(done, index)), label(character));
    done = index + character.length;
  }
  fragment.append(...marked(text.slice(done)));
  return fragment;
}

/** The visible stand-in of an unseen character. */
function label(character) {
  const name = NAMES[character.codePointAt(0)] ?? codePoint(character);
  return el("span", { class: "unprintable", title: codePoint(character) }, name);
}

/** Pieces of a text, those that the search looks for in <mark>. */
function marked(text) {
  if (!state.words.length || !text) return [text];
  const escaped = state.words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const pieces = text.split(new RegExp(`(${escaped.join("|")})`, "giu"));
  return pieces.map((piece, i) => (i % 2 ? el("mark", {}, piece) : piece));
}

/** An element with attributes and children; strings become text nodes. */
function el(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** The same for SVG. */
function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function filled(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(key, value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== false && child !== undefined));
  return element;
}

const count = (number) => number.toLocaleString("en");
const fixed = (number) => number.toFixed(2).replace("-0.00", "0.00").replace("-", "\u2212");
const signed = (number) => (number > 0 && fixed(number) !== "0.00" ? "+" : "") + fixed(number);
const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

// --- what is known of a solution

const solutionsOf = problems.map(() => []);
const pairsOf = solutions.map(() => []);
solutions.forEach((solution, place) => solutionsOf[solution.problem].push(place));
pairs.forEach((pair, number) => {
  for (const place of new Set([pair.chosen, ...pair.rejected])) pairsOf[place].push(number);
});

/** A_i = Q_i - Q_{i-1} of step i (from 1), as stepneg.credit.values has it; null where it is not known. */
function advantage(solution, step) {
  const values = solution.values ?? [];
  return step < values.length ? values[step] - values[step - 1] : null;
}

/** minus, plus, zero or unknown. */
function signOf(gain) {
  if (gain === null) return "unknown";
  return gain < -SMALL ? "minus" : gain > SMALL ? "plus" : "zero";
}

const SIGNS = { minus: "\u2212", plus: "+", zero: "0", unknown: "\u00b7" };

/** Colour an element by an advantage: its class says the sign, --strength from 0 to 1 how large it is. */
function coloured(element, gain) {
  element.classList.add(signOf(gain));
  if (gain !== null) element.style.setProperty("--strength", Math.min(1, Math.abs(gain)).toFixed(3));
  return element;
}

const valued = (s) => (s.counts ?? []).length > 1;
const withoutPit = (s) => Boolean(s.no_pit) && s.no_pit !== "no values";
const noAnswer = (s) => Boolean(s.graded) && (s.graded.extracted === null || s.graded.rule === "unparsable");
const drop = (s) => Math.min(0, ...(s.values ?? []).slice(1).map((value, i) => value - s.values[i]));

const MARKS = [
  ["right", "Right", (s) => s.right],
  ["wrong", "Wrong", (s) => !s.right],
  ["pit", "First pit", (s) => Boolean(s.pit)],
  ["no-pit", "No pit", withoutPit],
  ["spurious", "Spurious step", (s) => Boolean(s.spurious)],
  ["pair", "In a pair", (_, place) => pairsOf[place].length > 0],
  ["no-answer", "No answer", noAnswer],
  ["cut", "Cut off", (s) => Boolean(s.unfinished)],
];
const OPPOSITE = { right: "wrong", wrong: "right", pit: "no-pit", "no-pit": "pit" };
const ORDERS = {
  "problem by problem": (a, b) => solutions[a].part - solutions[b].part || solutions[a].problem - solutions[b].problem,
  "as in the files": () => 0,
  "deepest drop first": (a, b) => drop(solutions[a]) - drop(solutions[b]),
  "hardest problem first": (a, b) => solved(a) - solved(b),
  "most steps first": (a, b) => solutions[b].steps.length - solutions[a].steps.length,
};

const USUAL = Object.keys(ORDERS)[0];

/** Share of the problem's own solutions that are right, as its counts or samples tell; 2 where they do not. */
function solved(place) {
  const { counts, graded } = solutions[place];
  if (counts?.length) return counts[0][1] / counts[0][0];
  return graded?.samples ? graded.samples_correct / graded.samples : 2;
}

// --- state, filters, search

const state = { words: [], marks: new Set(), part: "", facts: {}, order: USUAL };
let found = []; // places of the solutions that are listed
let current = -1; // which of them is shown
let haystacks = null; // lower-case texts, made by the first search

/** Words of a search; what stands in quotation marks is one. */
function wordsOf(query) {
  return [...query.toLowerCase().matchAll(/"([^"]+)"|(\S+)/g)].map((m) => m[1] ?? m[2]);
}

function haystack(solution) {
  const { id, question, answer } = problems[solution.problem];
  return [id, question, answer ?? "", ...solution.steps, solution.graded?.extracted ?? ""].join("\n").toLowerCase();
}

function matches(place) {
  const solution = solutions[place];
  const { meta } = problems[solution.problem];
  return (
    (state.part === "" || solution.part === Number(state.part)) &&
    MARKS.every(([name, , test]) => !state.marks.has(name) || test(solution, place)) &&
    Object.entries(state.facts).every(([fact, value]) => value === String(meta[fact])) &&
    state.words.every((word) => haystacks[place].includes(word))
  );
}

/** Find what the filters let through, and stay at the solution that is shown if it is among it. */
function refresh() {
  const was = found[current];
  if (state.words.length) haystacks ??= solutions.map(haystack);
  found = solutions.map((_, place) => place).filter(matches);
  const order = ORDERS[state.order];
  found.sort((a, b) => order(a, b) || a - b);
  current = found.indexOf(was);
  byId("count").textContent = told();
  drawFilters();
  byId("rows").style.height = `${found.length * ROW}px`;
  if (current < 0 && found.length && !PHONE.matches) select(0);
  else drawDetail();
  scrollTo(Math.max(current, 0));
  drawRows();
}

function told() {
  const right = found.filter((place) => solutions[place].right).length;
  if (!found.length) return "No solution passes the filters; press x to clear them.";
  const which = found.length < solutions.length ? `${count(found.length)} of ` : "";
  return `${which}${plural(solutions.length, "solution")} \u00b7 ${count(right)} right, ${count(found.length - right)} wrong`;
}

function toggle(mark) {
  if (!buttons[mark]) return;
  if (!state.marks.delete(mark)) {
    state.marks.add(mark);
    state.marks.delete(OPPOSITE[mark]);
  }
  refresh();
}

function clearFilters() {
  Object.assign(state, { words: [], marks: new Set(), part: "", facts: {}, order: USUAL });
  byId("search").value = "";
  for (const select of byId("selects").querySelectorAll("select")) select.selectedIndex = 0;
  refresh();
}

const buttons = {};

function makeFilters() {
  for (const [name, text, test] of MARKS) {
    const number = solutions.filter(test).length;
    if (!number) continue;
    const parts = [text, " ", el("span", { class: "number" }, count(number))];
    buttons[name] = el("button", { type: "button", class: `mark ${name}`, click: () => toggle(name) }, parts);
  }
  byId("marks").append(...Object.values(buttons));
  if (parts.length > 1) addSelect("Part", parts.map((part, i) => [String(i), part]), (value) => (state.part = value));
  for (const [fact, values] of factValues()) {
    addSelect(fact, values, (value) => (value === "" ? delete state.facts[fact] : (state.facts[fact] = value)));
  }
  const orders = Object.keys(ORDERS).slice(1).map((name) => [name, name]);
  addSelect("Order", orders, (value) => (state.order = value || USUAL), USUAL);
  byId("selects").append(el("button", { type: "button", class: "clear", click: clearFilters }, "Clear filters ", el("kbd", {}, "x")));
}

/** Facts of the problems and their values with how many solutions have them. */
function factValues() {
  const facts = new Map();
  for (const { problem } of solutions) {
    for (const [fact, value] of Object.entries(problems[problem].meta)) {
      if (!facts.has(fact)) facts.set(fact, new Map());
      const values = facts.get(fact);
      values.set(String(value), (values.get(String(value)) ?? 0) + 1);
    }
  }
  const compare = new Intl.Collator("en", { numeric: true }).compare;
  return [...facts].map(([fact, values]) => [
    fact,
    [...values].sort((a, b) => compare(a[0], b[0])).map(([value, n]) => [value, `${value} (${count(n)})`]),
  ]);
}

function addSelect(name, options, change, first = "any") {
  const choices = [["", first], ...options].map(([value, text]) => new Option(plain(text), value));
  const chosen = (event) => {
    change(event.target.value);
    refresh();
  };
  byId("selects").append(el("label", {}, el("bdi", {}, shown(name)), el("select", { change: chosen }, choices)));
}

function drawFilters() {
  for (const [name, button] of Object.entries(buttons)) button.setAttribute("aria-pressed", state.marks.has(name));
  const active = Object.keys(state.facts).length + (state.part !== "") + (state.order !== USUAL);
  byId("active").textContent = active ? `(${active} set)` : "";
}

// --- the list: only rows that are seen are in the page

function drawRows() {
  const list = byId("list");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - SPARE);
  const last = Math.min(found.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + SPARE);
  const rows = [];
  for (let index = first; index < last; index++) rows.push(row(index));
  byId("rows").replaceChildren(...rows);
  if (current >= first && current < last) list.setAttribute("aria-activedescendant", `row-${current}`);
  else list.removeAttribute("aria-activedescendant");
}

function row(index) {
  const place = found[index];
  const solution = solutions[place];
  const head = el("div", { class: "head" }, verdict(solution), el("bdi", { class: "id" }, shown(problems[solution.problem].id)), tags(solution, place));
  const options = { role: "option", id: `row-${index}`, class: "row", "aria-selected": String(index === current) };
  const item = el("div", { ...options, "aria-posinset": index + 1, "aria-setsize": found.length }, head);
  const line = (text) => el("bdi", { class: "snippet" }, shown(text));
  item.append(line(snippet(solution)), valued(solution) ? strip(solution) : line(problems[solution.problem].question.slice(0, 140)));
  item.style.top = `${index * ROW}px`;
  item.dataset.index = index;
  return item;
}

function verdict(solution) {
  const text = solution.right ? "right" : "wrong";
  return el("span", { class: `verdict ${text}` }, el("span", { "aria-hidden": "true" }, solution.right ? "\u2713" : "\u2717"), el("span", { class: "unseen" }, text));
}

function tags(solution, place) {
  const texts = [];
  if (solution.pit) texts.push(`pit ${solution.pit}`);
  if (withoutPit(solution)) texts.push(solution.no_pit);
  if (solution.spurious) texts.push("spurious");
  if (pairsOf[place].some((number) => pairs[number].chosen === place)) texts.push("chosen");
  if (pairsOf[place].some((number) => pairs[number].rejected.includes(place))) texts.push("rejected");
  if (noAnswer(solution)) texts.push("no answer");
  return el("span", { class: "tags" }, texts.map((text) => el("span", { class: "tag" }, text)));
}

/** What a row says of its solution: around the first word that was searched, or its last line. */
function snippet(solution) {
  const whole = [problems[solution.problem].question, ...solution.steps].join(" ").replace(/\s+/g, " ");
  const at = state.words.length ? whole.toLowerCase().indexOf(state.words[0]) : -1;
  if (at >= 0) return (at > 20 ? "\u2026" : "") + whole.slice(Math.max(0, at - 20), at + 120);
  const last = solution.steps.findLast((step) => step.trim()) ?? "(empty)";
  return last.trim().slice(0, 140);
}

const STRIP = 24; // steps in a row's strip

/** A cell a step, with the sign of its advantage and colour; the pit is framed. */
function strip(solution) {
  const cells = el("div", { class: "strip", "aria-hidden": "true" });
  solution.steps.slice(0, STRIP).forEach((_, i) => {
    const gain = advantage(solution, i + 1);
    cells.append(coloured(el("i", { class: i + 1 === solution.pit ? "pit" : "" }, SIGNS[signOf(gain)]), gain));
  });
  if (solution.steps.length > STRIP) cells.append("\u2026");
  return cells;
}

function scrollTo(index) {
  const list = byId("list");
  const top = index * ROW;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
}

function select(index) {
  if (!found.length) return;
  current = Math.min(Math.max(index, 0), found.length - 1);
  scrollTo(current);
  drawRows();
  drawDetail();
  remember();
}

/** Show a solution, even one that the filters leave out. */
function show(place) {
  if (!found.includes(place)) clearFilters();
  select(found.indexOf(place));
}

/** To the next (1) or previous (-1) problem in the list. */
function moveProblem(by) {
  let index = current;
  const problem = solutions[found[current]]?.problem;
  while (found[index] !== undefined && solutions[found[index]].problem === problem) index += by;
  if (found[index] !== undefined) select(index);
}

/** To the other side of the pair of the solution that is shown. */
function otherSide() {
  const place = found[current];
  const pair = pairs[pairsOf[place]?.[0]];
  if (pair) show(pair.chosen === place ? pair.rejected[0] : pair.chosen);
}

/** The place of the solution that the page's address names. */
function addressed() {
  const place = Number(location.hash.slice(1) || NaN);
  return place in solutions ? place : null;
}

/** The solution that is shown, in the address; on a phone, none beside the list. */
function remember() {
  const named = !PHONE.matches || document.body.classList.contains("reading");
  try {
    history.replaceState(null, "", named ? `#${found[current]}` : "#");
  } catch {
    // where a page has no history of its own, nothing is remembered
  }
}

// --- the solution that is shown

function drawDetail() {
  const detail = byId("detail");
  const place = found[current];
  if (place === undefined) {
    detail.replaceChildren(el("p", { class: "empty" }, "Choose a solution in the list."));
    return;
  }
  const solution = solutions[place];
  detail.replaceChildren(bar(), problemSection(solution, place), solutionSection(solution), ...pairSections(place));
  detail.scrollTop = 0;
}

function bar() {
  const step = (by, text, key) =>
    el("button", { type: "button", click: () => select(current + by), disabled: found[current + by] === undefined }, text, " ", el("kbd", {}, key));
  return el(
    "div",
    { class: "bar" },
    el("button", { type: "button", class: "back", click: leave }, "\u2190 List"),
    el("span", { class: "place" }, `${count(current + 1)} of ${count(found.length)}`),
    step(-1, "Previous", "k"),
    step(1, "Next", "j"),
  );
}

function problemSection(solution, place) {
  const problem = problems[solution.problem];
  const facts = Object.entries(problem.meta).map(([name, value]) => fact(name, String(value)));
  if (problem.answer !== null) facts.push(fact("reference answer", problem.answer));
  return el(
    "section",
    { class: "problem", "aria-label": "Problem" },
    el("h2", {}, el("bdi", {}, shown(problem.id))),
    problem.question ? prose(problem.question) : el("p", { class: "missing" }, "The question is not in this file (an earlier version made it)."),
    el("ul", { class: "facts" }, facts),
    problem.solution ? el("details", {}, el("summary", {}, "Worked solution"), prose(problem.solution)) : null,
    siblings(solution.problem, place),
  );
}

const fact = (name, value) => el("li", {}, el("bdi", { class: "name" }, shown(name)), " ", el("bdi", {}, shown(value)));
const prose = (text) => el("div", { class: "text", dir: "auto" }, shown(text));

const SIBLINGS = 40; // buttons for the solutions of a problem

/** Buttons for all solutions of the problem. */
function siblings(problem, place) {
  const all = solutionsOf[problem];
  if (all.length < 2) return null;
  const button = (other, i) => {
    const { right, pit } = solutions[other];
    const text = `${right ? "\u2713" : "\u2717"} ${i + 1}${pit ? `, pit ${pit}` : ""}`;
    const options = { type: "button", class: right ? "right" : "wrong", "aria-label": `solution ${i + 1}, ${right ? "right" : "wrong"}` };
    return el("button", { ...options, "aria-current": other === place ? "true" : null, click: () => show(other) }, text);
  };
  const more = all.length > SIBLINGS ? el("span", {}, `and ${count(all.length - SIBLINGS)} more`) : null;
  return el(
    "div",
    { class: "siblings", role: "group", "aria-label": "Solutions of this problem" },
    el("span", {}, `${plural(all.length, "solution")}:`),
    all.slice(0, SIBLINGS).map(button),
    more,
  );
}

function solutionSection(solution) {
  return el(
    "section",
    { class: "solution", "aria-label": "Solution" },
    el("h3", {}, verdict(solution), ` ${solution.right ? "Right" : "Wrong"} solution `, el("span", { class: "part" }, shown(parts[solution.part]))),
    el("p", { class: "said" }, said(solution)),
    solution.graded ? gradedList(solution) : null,
    solution.values?.length > 1 ? curve(solution) : null,
    el("ol", { class: "steps" }, solution.steps.map((text, i) => stepItem(solution, text, i + 1))),
    solution.unfinished ? el("p", { class: "missing" }, "Cut off by the token limit: it has no end-of-sequence token.") : null,
  );
}

const NO_PIT = {
  "no pit": "No pit: no step has a value clearly below that of the problem itself.",
  unsolved: "No pit: the problem was never solved (its own value is 0), so no step is to blame.",
  "no values": "Its steps are not valued.",
};

/** A sentence on what credit found. */
function said(solution) {
  const sentences = [];
  if (solution.pit) sentences.push(`First pit: step ${solution.pit} of ${solution.steps.length}.`);
  if (solution.pit && data.settings.searched) sentences.push("The pit was searched for: counts say where it is, and no values.");
  if (solution.no_pit) sentences.push(NO_PIT[solution.no_pit]);
  if (solution.spurious) {
    const which = `${solution.spurious.length > 1 ? "steps" : "step"} ${solution.spurious.join(", ")}`;
    sentences.push(`Spurious: ${which} (an advantage of at most ${fixed(data.spurious)} in a right solution).`);
  }
  if (solution.imitated) sentences.push("It is trained on.");
  if (solution.values?.length) sentences.push(`The problem's own value is Q\u2080 = ${fixed(solution.values[0])}.`);
  return sentences.join(" ");
}

function gradedList(solution) {
  const { extracted, rule, samples, samples_correct: right, majority } = solution.graded;
  const answer = extracted === null ? "none" : extracted;
  const items = [fact("extracted answer", answer), fact("reference", problems[solution.problem].answer), fact("rule", rule)];
  if (samples) items.push(fact("samples right", `${right} of ${samples}, majority ${majority ? "right" : "wrong"}`));
  return el("ul", { class: "facts" }, items);
}

function stepItem(solution, text, number) {
  const gain = advantage(solution, number);
  const known = solution.counts?.[number];
  const facts = el("span", { class: "numbers" });
  if (gain !== null) facts.append(el("b", {}, `A ${signed(gain)}`), el("span", {}, `Q ${fixed(solution.values[number])}`));
  if (known) facts.append(el("span", {}, `${known[1]} of ${known[0]} right`));
  else if (number === solution.counts?.length) facts.append(el("span", {}, `not ${data.settings.searched ? "tried" : "valued"} from here on`));
  const weight = solution.weights?.[number - 1];
  if (weight != null) facts.append(el("span", {}, `weight ${fixed(weight)}`));
  const pit = number === solution.pit ? el("strong", { class: "flag" }, "first pit") : null;
  const spurious = solution.spurious?.includes(number) ? el("strong", { class: "flag" }, "spurious") : null;
  const sign = el("span", { class: "sign", "aria-hidden": "true" }, valued(solution) ? SIGNS[signOf(gain)] : "");
  const item = el("li", { class: `step${pit ? " pit" : ""}`, id: `step-${number}` }, sign, prose(text.replace(/\n+$/, "")), facts, pit, spurious);
  return coloured(item, gain);
}

// --- the value curve

const CURVE = { height: 150, left: 34, inset: 18, right: 18, top: 20, bottom: 24 }; // pixels

/** Q_0..Q_m over the steps; each segment has the colour of its step's advantage, its mark says the sign. */
function curve(solution) {
  const { values, steps, pit } = solution;
  const width = Math.max(260, Math.min(860, byId("detail").clientWidth - 48));
  const x = (i) => CURVE.left + CURVE.inset + (i * (width - CURVE.left - CURVE.inset - CURVE.right)) / Math.max(1, steps.length);
  const y = (q) => CURVE.top + (1 - q) * (CURVE.height - CURVE.top - CURVE.bottom);
  const picture = svg("svg", { class: "curve", width, height: CURVE.height, viewBox: `0 0 ${width} ${CURVE.height}`, role: "img" });
  const spoken = values.map((q, i) => `${i}: ${fixed(q)}`).join(", ");
  picture.append(svg("title", {}, `Values Q after each step; ${spoken}${pit ? `; first pit at step ${pit}` : ""}`));
  picture.append(...grid(x, y, width, steps.length));
  values.slice(1).forEach((q, i) => {
    const ends = { x1: x(i), y1: y(values[i]), x2: x(i + 1), y2: y(q) };
    picture.append(svg("line", { class: `segment ${signOf(q - values[i])}`, ...ends }));
  });
  const every = Math.ceil((values.length * 36) / width); // labels that do not overlap
  values.forEach((q, i) => picture.append(...point(x(i), y(q), q, i, solution, i % every === 0, width)));
  return picture;
}

function grid(x, y, width, steps) {
  const lines = [0, 0.5, 1].flatMap((q) => [
    svg("line", { class: "grid", x1: CURVE.left, x2: width - CURVE.right, y1: y(q), y2: y(q) }),
    svg("text", { class: "axis", x: CURVE.left - 8, y: y(q) + 4, "text-anchor": "end" }, String(q)),
  ]);
  const every = Math.ceil((steps * 26) / width);
  for (let i = 0; i <= steps; i += every) {
    const name = i === 0 ? "Q\u2080" : String(i);
    lines.push(svg("text", { class: "axis", x: x(i), y: CURVE.height - 6, "text-anchor": "middle" }, name));
  }
  return lines;
}

/** The mark of a value: a triangle down or up by the sign of the step's advantage, a circle where it is 0. */
function point(x, y, q, i, solution, named, width) {
  const gain = i === 0 ? null : advantage(solution, i);
  const sign = signOf(gain);
  const shapes = { minus: `${x - 6},${y - 5} ${x + 6},${y - 5} ${x},${y + 6}`, plus: `${x - 6},${y + 5} ${x + 6},${y + 5} ${x},${y - 6}` };
  const mark = shapes[sign] ? svg("polygon", { class: `point ${sign}`, points: shapes[sign] }) : svg("circle", { class: `point ${sign}`, cx: x, cy: y, r: 4.5 });
  const isPit = i > 0 && i === solution.pit;
  const ring = svg("circle", { class: "ring", cx: x, cy: y, r: 11 });
  if (isPit) return [ring, mark, pitLabel(x, y, q, width)];
  const [before, after] = [solution.values[i - 1], solution.values[i + 1]];
  const below = before > q && after > q && q >= 0.25; // both lines go up from here; deeper down is the axis
  const text = named ? svg("text", { class: "value", x, y: y + (below ? 19 : -10), "text-anchor": "middle" }, fixed(q)) : null;
  return [mark, text].filter(Boolean);
}

const PIT_LABEL = 110; // pixels from the pit's middle to the label's end

/** Beside the pit, on the side where there is room: behind it, else before it. */
function pitLabel(x, y, q, width) {
  const before = x + PIT_LABEL > width;
  return svg("text", { class: "value pit", x: x + (before ? -16 : 16), y: y - 6, "text-anchor": before ? "end" : "start" }, `first pit ${fixed(q)}`);
}

// --- pairs

const PAIRS = 8; // pairs of a solution that are shown

function pairSections(place) {
  const mine = pairsOf[place];
  const sections = mine.slice(0, PAIRS).map((number) => pairSection(pairs[number], place));
  if (mine.length > PAIRS) sections.push(el("p", { class: "missing" }, `and ${plural(mine.length - PAIRS, "more pair")}`));
  return sections;
}

function pairSection(pair, place) {
  const chosen = solutions[pair.chosen].steps.join("");
  const other = pair.rejected.includes(place) ? place : pair.rejected[0];
  const whole = solutions[other];
  const rejected = whole.steps.slice(0, pair.steps).join("").trimEnd();
  const what = pair.context ? "the context of both, without loss" : "the same in both";
  const end = pair.steps < whole.steps.length ? `cut after step ${pair.steps}: no end-of-sequence token` : null;
  return el(
    "section",
    { class: "pair", "aria-label": "Pair" },
    el("h3", {}, "The pair"),
    el("p", { class: "said" }, pair.common ? ["Underlined: ", el("span", { class: "common" }, `the beginning, ${what}`), "."] : "They differ from the first token on."),
    el("div", { class: "sides" }, side("chosen", chosen, pair, pair.chosen, place, null), side("rejected", rejected, pair, other, place, end)),
  );
}

function side(name, text, pair, place, here, end) {
  const logp = pair.logp[name === "chosen" ? 0 : 1];
  const go = place === here ? el("span", { class: "here" }, "shown above") : el("button", { type: "button", click: () => show(place) }, "Show ", el("kbd", {}, "c"));
  const head = el("h4", {}, verdict({ right: name === "chosen" }), ` ${name} `, go);
  const body = el("div", { class: "text", dir: "auto" }, el("span", { class: "common" }, shown(text.slice(0, pair.common))), shown(text.slice(pair.common)));
  if (end) body.append(el("span", { class: "cut-here" }, end));
  const told = logp === null || logp === undefined ? null : el("p", { class: "logp" }, `log-probability under the reference: ${fixed(logp)} nats`);
  return el("div", { class: `side ${name}` }, head, body, told);
}

// --- dialogs

function drawAbout() {
  const { method, policy, k, tolerance, steps, searched } = data.settings;
  const settings = { method, policy, "K of best-of-K values": k, "a pit lies below Q\u2080 by more than": tolerance, "a step is": steps, "pits": searched ? "searched for (pit_error)" : "of values" };
  byId("facts").append(
    table("Settings", Object.entries(settings).filter(([, value]) => value !== "")),
    table("Facts of the data", Object.entries(data.facts).map(([name, value]) => [name.replaceAll("_", " "), count(value)])),
  );
  if (data.notes.length) byId("facts").append(el("h3", {}, "Left out"), el("ul", {}, data.notes.map((note) => el("li", {}, shown(note)))));
}

function table(caption, rows) {
  if (!rows.length) return "";
  const lines = rows.map(([name, value]) => el("tr", {}, el("th", { scope: "row" }, shown(String(name))), el("td", {}, shown(String(value)))));
  return el("table", {}, el("caption", {}, caption), el("tbody", {}, lines));
}

function drawHelp() {
  const rows = COMMANDS.filter((c) => c.does).map(({ keys, does }) => el("tr", {}, el("th", { scope: "row" }, keys.flatMap((key) => [el("kbd", {}, NAMED[key] ?? key), " "])), el("td", {}, does)));
  byId("keys").tBodies[0].append(...rows);
  const scale = [-1, -0.5, -0.1, 0, 0.1, 0.5, 1].map((gain) => coloured(el("i", {}, signed(gain)), gain));
  byId("legend").append(
    el("p", {}, "The colour of a step is its advantage A = Q after \u2212 Q before: how much more, or less, often the policy gets the answer right once the step is taken."),
    el("div", { class: "scale" }, scale),
    el("p", {}, "The first pit is the step with the least value of a wrong solution. A spurious step of a right solution has an advantage of at most ", fixed(data.spurious), ". \u2713 and \u2717 are verdicts of the grader; what is imitated or chosen counts as right."),
  );
}

function open(dialog) {
  if (!dialog.open) dialog.showModal();
}

// --- theme

const THEMES = { auto: "light dark", dark: "dark", light: "light" };

function showTheme(name) {
  document.documentElement.style.colorScheme = THEMES[name];
  document.documentElement.dataset.theme = name;
  byId("theme").textContent = `Theme: ${name}`;
}

function storedTheme() {
  try {
    const name = localStorage.getItem("stepneg-theme");
    return name in THEMES ? name : "auto";
  } catch {
    return "auto";
  }
}

function nextTheme() {
  const names = Object.keys(THEMES);
  const name = names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length];
  showTheme(name);
  try {
    localStorage.setItem("stepneg-theme", name);
  } catch {
    // a page from a file may have no storage
  }
}

// --- keys

const NAMED = { ArrowDown: "\u2193", ArrowUp: "\u2191", Escape: "Esc" };
const COMMANDS = [
  { keys: ["j"], does: "next solution (in the list \u2193, too)", run: () => select(current + 1) },
  { keys: ["k"], does: "previous solution (in the list \u2191, too)", run: () => select(current - 1) },
  { keys: ["n"], does: "next problem", run: () => moveProblem(1) },
  { keys: ["p"], does: "previous problem", run: () => moveProblem(-1) },
  { keys: ["g"], does: "first solution", run: () => select(0) },
  { keys: ["G"], does: "last solution", run: () => select(found.length - 1) },
  { keys: ["c"], does: "the other side of the pair", run: otherSide },
  { keys: ["/"], does: "search; words must all occur, \u201c\u2026\u201d is one word", run: () => focusSearch() },
  { keys: ["r"], does: "only right solutions, or all again", run: () => toggle("right") },
  { keys: ["w"], does: "only wrong solutions, or all again", run: () => toggle("wrong") },
  { keys: ["x"], does: "clear search and filters", run: clearFilters },
  { keys: ["t"], does: "theme: auto, dark, light", run: nextTheme },
  { keys: ["?"], does: "this help", run: () => open(byId("help")) },
  { keys: ["Escape"], does: "out of the search, back to the list", run: () => leave() },
];
const LIST_KEYS = {
  ArrowDown: () => select(current + 1),
  ArrowUp: () => select(current - 1),
  Home: () => select(0),
  End: () => select(found.length - 1),
  PageDown: () => select(current + pageful()),
  PageUp: () => select(current - pageful()),
  Enter: () => enter(),
};
const pageful = () => Math.max(1, Math.floor(byId("list").clientHeight / ROW) - 1);

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const typing = event.target.matches("input, select, textarea");
  if (typing && event.key !== "Escape") {
    if (event.key === "Enter" && event.target.id === "search") byId("list").focus();
    return;
  }
  const command = COMMANDS.find(({ keys }) => keys.includes(event.key))?.run;
  const run = command ?? (event.target.id === "list" ? LIST_KEYS[event.key] : undefined);
  if (!run) return;
  event.preventDefault();
  run();
}

function focusSearch() {
  document.body.classList.remove("reading");
  remember();
  byId("search").focus();
  byId("search").select();
}

/** To the solution that the page's address names, if it does. */
function follow(place) {
  if (place === null) return;
  show(place);
  if (PHONE.matches) enter();
}

/** On a phone: from the list to the solution. */
function enter() {
  document.body.classList.add("reading");
  remember();
  drawDetail(); // a curve is as wide as there is room
  byId("detail").focus({ preventScroll: true });
}

/** Back to the list. */
function leave() {
  document.body.classList.remove("reading");
  remember();
  drawRows(); // a list that was not shown had no height
  scrollTo(Math.max(current, 0));
  byId("list").focus({ preventScroll: true });
}

// --- start

function listen() {
  document.addEventListener("keydown", onKey);
  byId("list").addEventListener("scroll", () => requestAnimationFrame(drawRows), { passive: true });
  byId("rows").addEventListener("click", (event) => {
    const item = event.target.closest(".row");
    if (!item) return;
    select(Number(item.dataset.index));
    if (PHONE.matches) enter();
  });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("search").addEventListener("input", (event) => {
    state.words = wordsOf(event.target.value);
    refresh();
  });
  byId("open-help").addEventListener("click", () => open(byId("help")));
  byId("open-about").addEventListener("click", () => open(byId("about")));
  byId("theme").addEventListener("click", nextTheme);
  addEventListener("hashchange", () => follow(addressed()));
  addEventListener("resize", () => {
    drawRows();
    drawDetail();
  });
}

function start() {
  showTheme(storedTheme());
  const right = solutions.filter((s) => s.right).length;
  document.title = `${plain(data.run)} \u00b7 stepneg traces`;
  byId("run").append(shown(data.run));
  byId("summary").textContent = `${plural(solutions.length, "solution")} of ${plural(problems.length, "problem")}, ${count(right)} right, ${count(solutions.length - right)} wrong; ${plural(pairs.length, "pair")}`;
  if (data.notes.length) {
    byId("notes").hidden = false;
    byId("notes").append(`${data.notes.length > 1 ? `${data.notes.length} notes` : "Note"}: `, shown(data.notes[0]), data.notes.length > 1 ? " \u2026 (About this run has all)" : "");
  }
  makeFilters();
  drawHelp();
  drawAbout();
  listen();
  const named = addressed();
  refresh();
  follow(named);
  performance.mark("ready");
}

start();
