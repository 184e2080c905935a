// The page: the state in the hash decides what is searched and shown; everything else follows.

import * as api from "./api.js";
import { createCompare, defaultRival } from "./compare.js";
import { createControls, withoutFilters } from "./controls.js";
import { byId } from "./dom.js";
import { createExplain } from "./explain.js";
import { count } from "./format.js";
import { listenToKeys } from "./keyboard.js";
import { createQuery } from "./query.js";
import { createResults } from "./results.js";
import { activeFilters, formatHash, hasQuery, modeNote, parseHash, searchBody } from "./state.js";
import { createViewer } from "./viewer.js";

const THEMES = { "": "as the system", light: "light", dark: "dark" };

let info = null;
let state = parseHash(location.hash);
let searched = null; // the requests whose answers are shown
let lastText = null; // what was asked before, without filters
let controller = null;

const results = createResults({
  open,
  like,
  retry,
  clearFilters: () => update(withoutFilters()),
  byMeaning: () => update({ mode: "vector" }),
});
const explain = createExplain({
  spaceOf: (id) => {
    const space = info.spaces.find((one) => one.id === id);
    return space ? space.fingerprint.slice(0, 16) : id;
  },
});
const query = createQuery({ getState: () => state, update, getInfo: () => info });
const viewer = createViewer({
  close: closeViewer,
  step,
  like,
  words: () => state.text,
  explain: (row) => explain.open({ row: row.id, space: state.space || undefined }),
});
let controls = null;
let compare = null;

/** Change the state: a new entry of the history, unless `replace`. `force` searches again. */
function update(change, { replace = false, force = false } = {}) {
  const next = { ...state, ...change };
  const hash = formatHash(next);
  if (hash !== location.hash) {
    const address = hash || location.pathname + location.search;
    if (replace) history.replaceState(history.state, "", address);
    else history.pushState({ opened: Boolean(next.open) && !state.open }, "", address);
  }
  apply(next, { force });
}

function apply(next, { force = false } = {}) {
  state = next;
  if (!info) return;
  query.show(state);
  controls.show(state);
  byId("compare-open").setAttribute("aria-pressed", String(state.compare));
  byId("explain-open").disabled = !hasQuery(state);
  controls.showExamples(state, !hasQuery(state));
  const title = state.text || (state.like || state.uploads.length ? "Search by example" : "");
  document.title = title ? `${title} \u00b7 ${info.title}` : info.title;
  const bodies = [searchBody(state, info)];
  if (state.compare)
    bodies.push(searchBody(state, info, { space: state.vsSpace, dimension: state.vsDimension }));
  const wanted = JSON.stringify(hasQuery(state) ? bodies : [state.kind]);
  if (force || wanted !== searched) {
    searched = wanted;
    run(bodies);
  }
  if (state.open) viewer.show(state.open, position(state.open));
  else viewer.hide();
}

async function run(bodies) {
  controller?.abort();
  if (!hasQuery(state)) {
    lastText = null;
    results.welcome(info, state.kind);
    return;
  }
  controller = new AbortController();
  const { signal } = controller;
  const asked = JSON.stringify([state.text, state.uploads, state.like, state.compare]);
  results.loading(asked !== lastText);
  lastText = asked;
  try {
    if (bodies.length > 1) {
      const answers = await compare.search(bodies, signal);
      if (!signal.aborted) compare.show(answers, state);
    } else {
      const answer = await api.search(bodies[0], signal);
      if (!signal.aborted)
        results.show(answer, { filters: activeFilters(state) > 0, note: modeNote(state) });
    }
  } catch (error) {
    if (signal.aborted || api.isAbort(error)) return;
    searched = null;
    results.fail(error);
  }
}

function retry() {
  if (info) apply(state, { force: true });
  else start();
}

function open(id) {
  update({ open: id });
}

/** Where a row stands among the results: none when a link opens it before they arrive. */
function position(id) {
  const ids = [...new Set(results.cards().map((card) => card.dataset.id))];
  return { rank: ids.indexOf(id) + 1, total: ids.length, ids };
}

function step(by) {
  const { rank, ids } = position(state.open);
  const next = rank ? ids[rank - 1 + by] : undefined;
  if (next) update({ open: next }, { replace: true });
}

function closeViewer() {
  if (!state.open) return;
  const id = state.open;
  if (history.state?.opened) {
    state = { ...state, open: "" };
    history.back();
  } else {
    update({ open: "" }, { replace: true });
  }
  results
    .cards()
    .find((card) => card.dataset.id === id)
    ?.focus();
}

function like(hit) {
  query.rememberLike(hit);
  byId("text").value = "";
  update({ text: "", uploads: [], like: hit.id, open: "" }, { replace: Boolean(state.open) });
  window.scrollTo({ top: 0 });
  byId("text").focus({ preventScroll: true });
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  byId("theme-label").textContent = `Colours: ${THEMES[theme]}`;
  byId("theme").title = `Colours: ${THEMES[theme]}`;
}

function listen() {
  setTheme(document.documentElement.dataset.theme ?? "");
  byId("theme").addEventListener("click", () => {
    const names = Object.keys(THEMES);
    const theme =
      names[(names.indexOf(document.documentElement.dataset.theme ?? "") + 1) % names.length];
    setTheme(theme);
    try {
      localStorage.setItem("mmembed.theme", theme);
    } catch {
      // Storage is refused: the choice lasts as long as the page.
    }
  });
  const help = byId("help");
  byId("help-open").addEventListener("click", () => help.showModal());
  for (const dialog of [help, byId("explain")]) {
    dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  }
  byId("explain-open").addEventListener("click", () => explain.open(searchBody(state, info)));
  byId("compare-open").addEventListener("click", () =>
    update({
      text: query.words(),
      ...(state.compare
        ? { compare: false, vsSpace: "", vsDimension: "" }
        : { compare: true, ...defaultRival(info, state) }),
    }),
  );
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault();
    byId("results").focus();
  });
  window.addEventListener("popstate", () => apply(parseHash(location.hash)));
  listenToKeys({ cards: results.cards, focusSearch: query.focus, help: () => help.showModal() });
}

async function start() {
  results.loading(true);
  try {
    info = await api.info();
  } catch (error) {
    results.fail(error);
    return;
  }
  byId("title").textContent = info.title;
  byId("library").textContent = count(info.rows, ["item", "items"]);
  query.limit(info.limits);
  controls = createControls({ info, getState: () => state, update, words: query.words });
  compare = createCompare({ info, update, open });
  searched = null;
  apply(parseHash(location.hash));
}

listen();
start();
