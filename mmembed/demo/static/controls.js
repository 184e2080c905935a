// Tabs, examples, mode, filters and options: everything that narrows or orders a search.

import { byId, el } from "./dom.js";
import { DEFAULTS, NO_FILTERS, activeFilters, showsDuration, showsPages } from "./state.js";

const TABS = [
  ["all", "All"],
  ["image", "Images"],
  ["video", "Videos"],
  ["pdf", "Documents"],
  ["text", "Text"],
];
const MODE_NAMES = { vector: "Meaning", text: "Words", hybrid: "Both" };
const RESULT_COUNTS = [12, 24, 48, 96];

export function createControls({ info, getState, update, words }) {
  const [tabs, panel, modes, filters] = ["tabs", "panel", "modes", "filters"].map(byId);
  const [filtersOpen, badge, rerank] = ["filters-open", "filters-count", "rerank"].map(byId);
  const commit = (change) => update({ text: words(), ...change });
  let reset = null;
  const inputs = {}; // by name of the state's field

  function makeTabs() {
    const total = Object.values(info.kinds).reduce((sum, number) => sum + number, 0);
    const buttons = TABS.map(([kind, label]) =>
      el(
        "button",
        {
          type: "button",
          role: "tab",
          id: `tab-${kind}`,
          "aria-controls": "panel",
          "data-kind": kind,
          onclick: () => commit({ kind }),
        },
        label,
        el(
          "span",
          { class: "tab-count" },
          (kind === "all" ? total : (info.kinds[kind] ?? 0)).toLocaleString("en"),
        ),
      ),
    );
    tabs.replaceChildren(...buttons);
    tabs.addEventListener("keydown", (event) => {
      const at = buttons.indexOf(document.activeElement);
      const moves = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1 };
      if (at < 0 || !(event.key in moves)) return;
      event.preventDefault();
      const next = buttons[(moves[event.key] + buttons.length) % buttons.length];
      next.focus();
      next.click();
    });
  }

  function makeModes() {
    for (const mode of info.modes) {
      const input = el("input", {
        type: "radio",
        name: "mode",
        value: mode,
        class: "sr",
        id: `mode-${mode}`,
        onchange: () => commit({ mode }),
      });
      modes.append(input, el("label", { for: `mode-${mode}` }, MODE_NAMES[mode] ?? mode));
    }
    modes.hidden = info.modes.length < 2;
    byId("rerank-row").hidden = !info.reranker;
    rerank.addEventListener("change", () => commit({ rerank: rerank.checked }));
  }

  /** One labelled control that writes `name` of the state when it changes. */
  function control(name, label, input) {
    inputs[name] = input;
    input.id = `option-${name}`;
    input.addEventListener("change", () => {
      if (!input.reportValidity()) return;
      const change = { [name]: name === "k" ? Number(input.value) : input.value };
      commit(name === "space" ? { ...change, dimension: "" } : change);
    });
    return el("div", { class: "option" }, el("label", { for: input.id }, label), input);
  }

  const select = (options) =>
    el("select", {}, ...options.map(([value, label]) => el("option", { value }, label)));

  function pair(legend, low, high, id) {
    return el("fieldset", { class: `option pair ${id}`, id }, el("legend", {}, legend), low, high);
  }

  function bound(name, label, props) {
    const input = el("input", { ...props, "aria-label": label });
    control(name, label, input);
    return input;
  }

  function makeFilters() {
    const number = { type: "number", min: 0, step: "any", inputmode: "decimal" };
    const day = { type: "date", min: info.modified?.min, max: info.modified?.max };
    const pages = { ...number, min: 1, step: 1, max: info.max_page };
    const parts = [];
    if (info.folders.length > 1) {
      const folders = info.folders.map(({ id, label, rows }) => [id, `${label} (${rows})`]);
      parts.push(control("folder", "Folder", select([["", "Any folder"], ...folders])));
    }
    if (info.suffixes.length > 1) {
      parts.push(
        el(
          "fieldset",
          { class: "option" },
          el("legend", {}, "File type"),
          el("div", { class: "toggles" }, ...info.suffixes.map(suffixToggle)),
        ),
      );
    }
    parts.push(
      pair(
        "Changed, from and to",
        bound("after", "Changed on or after", day),
        bound("before", "Changed on or before", day),
        "filter-days",
      ),
    );
    if (info.max_page > 1) {
      parts.push(
        pair(
          "Pages of documents, from and to",
          bound("pageFrom", "First page", { ...pages, placeholder: "1" }),
          bound("pageTo", "Last page", { ...pages, placeholder: info.max_page }),
          "filter-pages",
        ),
      );
    }
    if (info.max_duration > 0) {
      parts.push(
        pair(
          "Seconds of videos, from and to",
          bound("durationMin", "Shortest video, seconds", { ...number, placeholder: "0" }),
          bound("durationMax", "Longest video, seconds", {
            ...number,
            placeholder: Math.ceil(info.max_duration),
          }),
          "filter-duration",
        ),
      );
    }
    reset = el(
      "button",
      { type: "button", class: "link", onclick: () => commit({ ...NO_FILTERS }) },
      "Clear filters",
    );
    filters.append(
      el("div", { class: "filters-title" }, el("h2", {}, "Filters"), reset),
      ...parts,
      el("div", { class: "filters-title" }, el("h2", {}, "Search")),
      ...makeOptions(),
    );
    filtersOpen.addEventListener("click", () => {
      filters.hidden = !filters.hidden;
      filtersOpen.setAttribute("aria-expanded", String(!filters.hidden));
    });
  }

  function suffixToggle(suffix) {
    const button = el(
      "button",
      {
        type: "button",
        class: "toggle",
        "aria-pressed": "false",
        "data-suffix": suffix,
        onclick: () => {
          const chosen = new Set(getState().suffixes);
          if (!chosen.delete(suffix)) chosen.add(suffix);
          commit({ suffixes: [...chosen].sort() });
        },
      },
      suffix.replace(/^\./, ""),
    );
    return button;
  }

  function makeOptions() {
    const counts = RESULT_COUNTS.filter((number) => number <= info.limits.k);
    if (!counts.length) counts.push(info.limits.k);
    const parts = [
      control("k", "Number of results", select(counts.map((number) => [number, number]))),
    ];
    if (info.spaces.length > 1) {
      parts.push(
        control(
          "space",
          "Model",
          select(info.spaces.map(({ id, label }, at) => [at ? id : "", label])),
        ),
      );
    }
    parts.push(control("dimension", "Dimensions", el("select")));
    parts.push(
      control(
        "instruction",
        "Instruction",
        el("input", {
          type: "text",
          maxlength: info.limits.text_chars,
          placeholder: "the model's own",
          spellcheck: false,
        }),
      ),
    );
    parts.at(-1).classList.add("wide");
    return parts;
  }

  function showExamples(state, visible) {
    const examples = byId("examples");
    const items = info.examples[state.kind] ?? [];
    examples.hidden = !visible || !items.length;
    examples.replaceChildren(
      el("span", { class: "muted" }, "Try"),
      ...items.map((text) =>
        el(
          "button",
          {
            type: "button",
            class: "example",
            onclick: () => update({ text, uploads: [], like: "" }),
          },
          text,
        ),
      ),
    );
  }

  makeTabs();
  makeModes();
  makeFilters();

  return {
    show(state) {
      for (const tab of tabs.children) {
        const chosen = tab.dataset.kind === state.kind;
        tab.setAttribute("aria-selected", String(chosen));
        tab.tabIndex = chosen ? 0 : -1;
        if (chosen) panel.setAttribute("aria-labelledby", tab.id);
        if (chosen)
          tabs.scrollLeft = Math.max(0, tab.offsetLeft + tab.offsetWidth - tabs.clientWidth);
      }
      for (const input of modes.querySelectorAll("input"))
        input.checked = input.value === state.mode;
      rerank.checked = state.rerank;
      fillDimensions(inputs.dimension, info, state.space);
      for (const [name, input] of Object.entries(inputs)) input.value = state[name];
      if (inputs.k.value === "") inputs.k.value = inputs.k.options[inputs.k.length - 1].value;
      for (const toggle of filters.querySelectorAll("[data-suffix]")) {
        toggle.setAttribute("aria-pressed", String(state.suffixes.includes(toggle.dataset.suffix)));
      }
      const [pages, duration] = [byId("filter-pages"), byId("filter-duration")];
      if (pages) pages.hidden = !showsPages(state);
      if (duration) duration.hidden = !showsDuration(state);
      const active = activeFilters(state);
      badge.hidden = !active;
      reset.hidden = !active;
      badge.replaceChildren(String(active), el("span", { class: "sr" }, " active"));
    },
    showExamples,
  };
}

/** The dimensions that a space can be searched with; the first choice is its own. */
export function fillDimensions(input, info, space) {
  const chosen = info.spaces.find(({ id }) => id === space) ?? info.spaces[0];
  const others = chosen.dimensions.filter((number) => number !== chosen.dimension);
  const note = chosen.dimension === Math.max(...chosen.dimensions) ? "all" : "default";
  const options = [
    ["", `${chosen.dimension} (${note})`],
    ...others.map((number) => [number, number]),
  ];
  input.replaceChildren(...options.map(([value, label]) => el("option", { value }, label)));
}

export const withoutFilters = () => ({ ...NO_FILTERS, kind: DEFAULTS.kind });
