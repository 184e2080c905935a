// What is searched and shown, as one plain object that lives in the URL's hash.

export const DEFAULTS = Object.freeze({
  text: "",
  uploads: [], // {id, page, start, end}: the last three may be null
  like: "",
  kind: "all",
  folder: "",
  suffixes: [],
  after: "",
  before: "",
  pageFrom: "",
  pageTo: "",
  durationMin: "",
  durationMax: "",
  mode: "vector",
  rerank: false,
  k: 24,
  instruction: "",
  space: "",
  dimension: "",
  compare: false,
  vsSpace: "",
  vsDimension: "",
  open: "", // the row in the viewer
});

export const FILTERS = [
  "folder",
  "suffixes",
  "after",
  "before",
  "pageFrom",
  "pageTo",
  "durationMin",
  "durationMax",
];
export const NO_FILTERS = Object.fromEntries(FILTERS.map((name) => [name, DEFAULTS[name]]));

const KEYS = {
  text: "q",
  uploads: "with",
  like: "like",
  kind: "kind",
  folder: "folder",
  suffixes: "type",
  after: "after",
  before: "before",
  pageFrom: "page-from",
  pageTo: "page-to",
  durationMin: "seconds-from",
  durationMax: "seconds-to",
  mode: "mode",
  rerank: "rerank",
  k: "k",
  instruction: "instruction",
  space: "space",
  dimension: "dimension",
  compare: "compare",
  vsSpace: "with-space",
  vsDimension: "with-dimension",
  open: "open",
};
const KINDS = ["all", "image", "video", "pdf", "text"];
const MODES = ["vector", "text", "hybrid"];

const number = (text) => {
  if (text === "" || text === null || text === undefined) return null;
  return Number.isFinite(Number(text)) ? Number(text) : null;
};

const formatUpload = ({ id, page, start, end }) =>
  [id, page, start, end]
    .map((value) => value ?? "")
    .join("~")
    .replace(/~+$/, "");

function parseUpload(text) {
  const [id, page, start, end] = text.split("~");
  return { id, page: number(page), start: number(start), end: number(end) };
}

/** The hash of a state; what equals its default is left out. */
export function formatHash(state) {
  const params = new URLSearchParams();
  for (const [name, key] of Object.entries(KEYS)) {
    const value = state[name];
    if (name === "uploads") value.forEach((upload) => params.append(key, formatUpload(upload)));
    else if (Array.isArray(value)) value.forEach((item) => params.append(key, item));
    else if (value !== DEFAULTS[name]) params.set(key, value === true ? "1" : value);
  }
  const text = params.toString();
  return text ? `#${text}` : "";
}

/** The state of a hash; anything it does not know falls back to the default. */
export function parseHash(hash) {
  const params = new URLSearchParams(hash.replace(/^#/, ""));
  const state = { ...DEFAULTS };
  for (const [name, key] of Object.entries(KEYS)) {
    if (!params.has(key)) continue;
    if (name === "uploads") state.uploads = params.getAll(key).map(parseUpload);
    else if (Array.isArray(DEFAULTS[name])) state[name] = params.getAll(key);
    else if (typeof DEFAULTS[name] === "boolean") state[name] = params.get(key) === "1";
    else if (name === "k") state.k = Math.max(1, Math.floor(number(params.get(key)) ?? DEFAULTS.k));
    else state[name] = params.get(key);
  }
  if (!KINDS.includes(state.kind)) state.kind = DEFAULTS.kind;
  if (!MODES.includes(state.mode)) state.mode = DEFAULTS.mode;
  return state;
}

/** A note where the chosen mode cannot be followed as it is, else "". */
export function modeNote(state) {
  const attached = state.uploads.length > 0 || Boolean(state.like);
  if (state.mode !== "vector" && !state.text.trim()) return "by meaning, without words to look for";
  return state.mode === "text" && attached ? "by words only, without what is attached" : "";
}

export const hasQuery = (state) => Boolean(state.text.trim() || state.uploads.length || state.like);

/** [from, to], null for an open end; undefined where neither end is given. */
function range(from, to) {
  const ends = [number(from), number(to)];
  return ends.every((end) => end === null) ? undefined : ends;
}

/** The body of POST /api/search; `side` replaces the space and dimension in a comparison. */
export function searchBody(state, info, side = state) {
  const body = {
    text: state.text.trim() || undefined,
    uploads: state.uploads.map(({ id, page, start, end }) => {
      const upload = { id };
      if (page !== null) upload.page = page;
      if (start !== null) upload.start = start;
      if (end !== null) upload.end = end;
      return Object.keys(upload).length === 1 ? id : upload;
    }),
    like: state.like || undefined,
    instruction: state.instruction || undefined,
    kinds: state.kind === "all" ? undefined : [state.kind],
    folder: state.folder || undefined,
    suffixes: state.suffixes.length ? state.suffixes : undefined,
    after: state.after || undefined,
    before: state.before || undefined,
    pages: showsPages(state) ? range(state.pageFrom, state.pageTo) : undefined,
    duration: showsDuration(state) ? range(state.durationMin, state.durationMax) : undefined,
    k: Math.min(state.k, info.limits.k),
    mode: state.text.trim() ? state.mode : "vector", // an image alone has no words
    rerank: Boolean(state.rerank && info.reranker),
    space: side.space || undefined,
    dimension: number(side.dimension) ?? undefined,
  };
  if (!body.uploads.length) delete body.uploads;
  return body;
}

export const showsPages = (state) => state.kind === "all" || state.kind === "pdf";
export const showsDuration = (state) => state.kind === "all" || state.kind === "video";

/** How many filters hold back results now. */
export function activeFilters(state) {
  const pages = showsPages(state) && (state.pageFrom || state.pageTo);
  const duration = showsDuration(state) && (state.durationMin || state.durationMax);
  return [state.folder, state.suffixes.length, state.after || state.before, pages, duration].filter(
    Boolean,
  ).length;
}
