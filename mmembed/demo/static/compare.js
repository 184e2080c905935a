// One query, two models or two dimensions: ranks side by side, and what moved.

import * as api from "./api.js";
import { byId, el, icon, thumbnail } from "./dom.js";
import { fillDimensions } from "./controls.js";
import { excerpt, milliseconds, place } from "./format.js";
import { scoreBar } from "./results.js";
import { modeNote } from "./state.js";

const ARROWS = { up: "\u2191", down: "\u2193" };

/** Ranks of `hits` by id, from 1. */
export const ranks = (hits) => new Map(hits.map((hit, at) => [hit.id, at + 1]));

/** How a hit stands against the other side: {kind: same | up | down | alone, by}. */
export function move(rank, otherRank) {
  if (otherRank === undefined) return { kind: "alone", by: 0 };
  if (rank === otherRank) return { kind: "same", by: 0 };
  return { kind: rank < otherRank ? "up" : "down", by: Math.abs(rank - otherRank) };
}

/** Where both agree among the first `top`, and the share of pairs in common. */
export function agreement(left, right, top = 10) {
  const [first, second] = [left.slice(0, top), right.slice(0, top)];
  const other = new Set(second.map((hit) => hit.id));
  const same = first.filter((hit, at) => second[at]?.id === hit.id).length;
  return {
    shared: first.filter((hit) => other.has(hit.id)).length,
    same,
    of: Math.max(first.length, second.length),
  };
}

/** What the second column starts with: the next model, else half of the dimensions. */
export function defaultRival(info, state) {
  const at = info.spaces.findIndex(({ id }) => id === (state.space || info.spaces[0].id));
  if (info.spaces.length > 1)
    return { vsSpace: info.spaces[(at + 1) % info.spaces.length].id, vsDimension: "" };
  const { dimension, dimensions } = info.spaces[0];
  const smaller = dimensions.filter((number) => number < dimension);
  return { vsSpace: "", vsDimension: String(smaller.at(-1) ?? "") };
}

function badge(change) {
  const words = {
    alone: ["only here", "only in this column"],
    same: ["=", "same rank as beside"],
    up: [`${ARROWS.up}${change.by}`, `${change.by} higher than beside`],
    down: [`${ARROWS.down}${change.by}`, `${change.by} lower than beside`],
  };
  const [shown, said] = words[change.kind];
  return el(
    "span",
    { class: `move ${change.kind}`, title: said },
    el("span", { "aria-hidden": "true" }, shown),
    el("span", { class: "sr" }, said),
  );
}

export function createCompare({ info, update, open }) {
  const [results, summary] = [byId("results"), byId("summary")];

  function picker(state, side) {
    const [spaceKey, dimensionKey] = side ? ["vsSpace", "vsDimension"] : ["space", "dimension"];
    const name = side ? "second" : "first";
    const space = el(
      "select",
      {
        "aria-label": `Model of the ${name} column`,
        onchange: () => update({ [spaceKey]: space.value, [dimensionKey]: "" }),
      },
      ...info.spaces.map(({ id, label }, at) => el("option", { value: at ? id : "" }, label)),
    );
    space.value = state[spaceKey];
    const dimension = el("select", {
      "aria-label": `Dimensions of the ${name} column`,
      onchange: () => update({ [dimensionKey]: dimension.value }),
    });
    fillDimensions(dimension, info, state[spaceKey]);
    dimension.value = state[dimensionKey];
    return el(
      "div",
      { class: "picker" },
      info.spaces.length > 1 ? space : el("span", { class: "picker-name" }, info.spaces[0].label),
      dimension,
    );
  }

  function line(hit, rank, other, hits, mode) {
    const media =
      hit.kind === "text"
        ? el("span", { class: "thumb" }, el("span", { class: "thumb-blank" }, icon("text")))
        : el("span", { class: "thumb" }, thumbnail(hit));
    const button = el(
      "button",
      { type: "button", class: "card-open", "data-id": hit.id, onclick: () => open(hit.id) },
      el("span", { class: "rank" }, el("span", { class: "sr" }, "rank "), String(rank)),
      media,
      el(
        "span",
        { class: "line-text" },
        el("span", { class: "card-name" }, hit.name),
        el("span", { class: "card-place muted" }, place(hit) || excerpt(hit.text)),
        scoreBar(hit, hits, mode),
      ),
      badge(move(rank, other)),
    );
    const item = el("li", { class: "compare-line", "data-id": hit.id }, button);
    const mark = (on) => () => {
      for (const twin of results.querySelectorAll(".compare-line"))
        twin.classList.toggle("twin", on && twin.dataset.id === hit.id);
    };
    for (const [event, on] of [
      ["mouseenter", true],
      ["focusin", true],
      ["mouseleave", false],
      ["focusout", false],
    ]) {
      item.addEventListener(event, mark(on));
    }
    return item;
  }

  function column(state, side, answer, other) {
    const body =
      answer instanceof Error
        ? el("p", { class: "column-error", role: "alert" }, answer.message)
        : answer.hits.length
          ? el(
              "ol",
              { class: "compare-list" },
              ...answer.hits.map((hit, at) =>
                line(hit, at + 1, other.get(hit.id), answer.hits, answer.mode),
              ),
            )
          : el("p", { class: "column-error" }, "Nothing found.");
    return el(
      "section",
      { class: "column", "aria-label": side ? "Second column" : "First column" },
      picker(state, side),
      body,
    );
  }

  return {
    /** Both searches; one that fails shows its reason in its column. */
    async search(bodies, signal) {
      const answers = await Promise.allSettled(bodies.map((body) => api.search(body, signal)));
      return answers.map(({ status, value, reason }) => {
        if (status === "fulfilled") return value;
        if (api.isAbort(reason) || reason.code === "unreachable") throw reason;
        return reason;
      });
    },
    show(answers, state) {
      results.setAttribute("aria-busy", "false");
      const maps = answers.map((answer) => ranks(answer.hits ?? []));
      results.replaceChildren(
        el(
          "div",
          { class: "columns" },
          column(state, 0, answers[0], maps[1]),
          column(state, 1, answers[1], maps[0]),
        ),
      );
      if (answers.some((answer) => answer instanceof Error)) {
        summary.replaceChildren(el("strong", {}, "One column failed"));
        return;
      }
      const { shared, same, of } = agreement(answers[0].hits, answers[1].hits);
      const took = answers.map(({ took: each }) =>
        milliseconds((each.encode_ms ?? 0) + (each.search_ms ?? 0) + (each.rerank_ms ?? 0)),
      );
      const detail = [took.join(" and "), modeNote(state)];
      summary.replaceChildren(
        el("strong", {}, `${shared} of the first ${of} are shared, ${same} at the same rank`),
        el("span", { class: "timing" }, detail.filter(Boolean).join(" \u00b7 ")),
      );
    },
  };
}
