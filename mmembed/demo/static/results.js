// The grid of results and the states around it: nothing asked yet, loading, nothing found, an error.

import { byId, el, icon, iconButton, thumbnail } from "./dom.js";
import { KIND_NAMES, count, excerpt, milliseconds, place, score } from "./format.js";

const LABELS = { image: "Image", video: "Clip", text: "Text" }; // a page says so in its place

/** Says what every part of a search cost: "24 results in 131 ms: reading 120 ms, ...". */
export function summarise(answer, note = "") {
  const { encode_ms: encode, search_ms: search, rerank_ms: rerank } = answer.took;
  const total = (encode ?? 0) + (search ?? 0) + (rerank ?? 0);
  const found = answer.hits.length
    ? count(answer.hits.length, ["result", "results"])
    : "Nothing found";
  const steps = [
    ["reading the query", encode],
    ["search", search],
    ["reranking", rerank],
  ]
    .filter(([, value]) => value)
    .map(([name, value]) => `${name} ${milliseconds(value)}`);
  const how = [
    answer.method,
    answer.dimension && answer.mode !== "text" ? `${answer.dimension} dimensions` : null,
    note,
  ].filter(Boolean);
  return {
    found,
    detail: [
      `${milliseconds(total)}${steps.length > 1 ? ` (${steps.join(", ")})` : ""}`,
      ...how,
    ].join(" \u00b7 "),
  };
}

/** Shares of the widest bar. Cosines stand for themselves; other scores are shown against the best. */
export function barShare(hit, hits, mode) {
  const reranked = hits.every((one) => one.rerank_score !== null && one.rerank_score !== undefined);
  const value = (one) => (reranked ? one.rerank_score : one.score);
  const scale = mode === "vector" && !reranked ? 1 : Math.max(1e-9, ...hits.map(value));
  return Math.min(1, Math.max(0, value(hit) / scale));
}

/** The bar and the number beside it. Widths go through the CSSOM, which the CSP allows. */
export function scoreBar(hit, hits, mode) {
  const fill = el("span", { class: "bar-fill" });
  fill.style.inlineSize = `${(barShare(hit, hits, mode) * 100).toFixed(1)}%`;
  const reranked = hit.rerank_score !== null && hit.rerank_score !== undefined;
  const label = reranked ? `reranked ${score(hit.rerank_score)}, before ${score(hit.score)}` : "";
  return el(
    "span",
    { class: "score", title: label },
    el("span", { class: "bar", "aria-hidden": "true" }, fill),
    el("span", { class: "sr" }, "score "),
    el("span", { class: "score-value" }, score(reranked ? hit.rerank_score : hit.score)),
  );
}

export function createResults({ open, like, retry, clearFilters, byMeaning }) {
  const [results, summary] = [byId("results"), byId("summary")];

  function card(hit, rank, hits, mode) {
    const text = excerpt(hit.text);
    const media =
      hit.kind === "text"
        ? el("span", { class: "thumb passage" }, el("span", {}, text || hit.name))
        : el(
            "span",
            { class: "thumb", "data-kind": hit.kind },
            thumbnail(hit),
            hit.kind === "video" ? el("span", { class: "play" }, icon("play")) : null,
          );
    const button = el(
      "button",
      { type: "button", class: "card-open", "data-id": hit.id, onclick: () => open(hit.id) },
      media,
      el("span", { class: "card-name", title: hit.name }, hit.name),
      el(
        "span",
        { class: "card-place muted" },
        [LABELS[hit.kind], place(hit)].filter(Boolean).join(" \u00b7 "),
      ),
      scoreBar(hit, hits, mode),
      hit.kind !== "text" && text ? el("span", { class: "card-text muted" }, text) : null,
    );
    return el(
      "li",
      { class: "card", "data-rank": rank },
      button,
      iconButton("like", `More like ${hit.name}`, () => like(hit), {
        class: "icon-button card-like",
        title: "More like this",
      }),
    );
  }

  function message(kind, title, lines, actions = []) {
    results.replaceChildren(
      el(
        "div",
        { class: `message ${kind}`, role: kind === "error" ? "alert" : null },
        icon(kind === "error" ? "warning" : "search"),
        el("h2", {}, title),
        ...lines.filter(Boolean).map((line) => el("p", {}, line)),
        actions.length ? el("div", { class: "message-actions" }, ...actions) : null,
      ),
    );
  }

  const action = (label, onclick, style = "quiet") =>
    el("button", { type: "button", class: style, onclick }, label);

  return {
    loading(fresh) {
      results.setAttribute("aria-busy", "true");
      if (!fresh && results.querySelector(".grid:not(.skeletons), .columns")) return;
      summary.replaceChildren("Searching\u2026");
      results.replaceChildren(
        el(
          "ul",
          { class: "grid skeletons", "aria-hidden": "true" },
          ...Array.from({ length: 12 }, () =>
            el(
              "li",
              { class: "card" },
              el("span", { class: "thumb" }),
              el("span", { class: "line" }),
              el("span", { class: "line short" }),
              el("span", { class: "line" }),
            ),
          ),
        ),
      );
    },
    show(answer, { filters, note }) {
      results.setAttribute("aria-busy", "false");
      const { found, detail } = summarise(answer, note);
      summary.replaceChildren(el("strong", {}, found), el("span", { class: "timing" }, detail));
      if (!answer.hits.length) {
        const advice = filters
          ? "The filters leave nothing. Clear them, or widen a range."
          : answer.mode === "text"
            ? "No file holds these words. Use fewer of them, or search by meaning."
            : "Nothing of this kind is in the library. Choose another tab.";
        message(
          "none",
          "Nothing found",
          [advice],
          [
            filters ? action("Clear filters", clearFilters) : null,
            answer.mode === "text" ? action("Search by meaning", byMeaning) : null,
          ].filter(Boolean),
        );
        return;
      }
      results.replaceChildren(
        el(
          "ul",
          { class: "grid" },
          ...answer.hits.map((hit, at) => card(hit, at + 1, answer.hits, answer.mode)),
        ),
      );
    },
    welcome(info, kind) {
      results.setAttribute("aria-busy", "false");
      summary.replaceChildren();
      const held = Object.entries(KIND_NAMES)
        .filter(([name]) => info.kinds[name] && (kind === "all" || kind === name))
        .map(([name, words]) => count(info.kinds[name], words));
      if (!held.length) {
        message("empty", "Nothing of this kind is indexed", [
          "Choose another tab, or add files: mmembed index FOLDER",
        ]);
        return;
      }
      const last = held.pop();
      message("empty", "What are you looking for?", [
        `${held.length ? `${held.join(", ")} and ` : ""}${last} can be found by what they show or say.`,
        "Type a description, or drop an image, a clip or a PDF.",
      ]);
    },
    fail(error) {
      results.setAttribute("aria-busy", "false");
      summary.replaceChildren();
      const title = error.code === "unreachable" ? "The server is gone" : "The search failed";
      message(
        "error",
        title,
        [error.message, error.requestId ? `Request ${error.requestId}` : null],
        [action("Try again", retry, "primary")],
      );
    },
    cards: () => [...results.querySelectorAll(".card-open")],
  };
}
