// The drawer that shows what the model reads: the exact prompt, tokens, sizes, frames, pages.

import * as api from "./api.js";
import { byId, el } from "./dom.js";
import { clock, count, size } from "./format.js";

const PARTS = { image: "Image", video: "Clip", pdf: "Page", page: "Page", text: "Text" };
const SPECIAL = /(<\|[^|>]*\|>(?: x \d+)?)/;

/** The prompt with its control tokens set apart; runs of pad tokens come collapsed from the server. */
function promptNodes(prompt) {
  return prompt
    .split(SPECIAL)
    .filter(Boolean)
    .map((piece) =>
      SPECIAL.test(piece)
        ? el("span", { class: / x \d+$/.test(piece) ? "token pads" : "token" }, piece)
        : piece,
    );
}

const list = (values, limit = 24) =>
  values.length > limit
    ? `${values.slice(0, limit).join(", ")} and ${values.length - limit} more`
    : values.join(", ");

function describeSizes(part) {
  const sizes = [...new Set((part.sizes ?? []).map((one) => size(one)))];
  const source = part.source_size ? size(part.source_size) : null;
  if (!sizes.length) return source ?? "";
  return source && source !== sizes[0] ? `${source} \u2192 ${list(sizes)}` : list(sizes);
}

function partItem(part) {
  const facts = [
    ["Tokens", part.num_tokens.toLocaleString("en")],
    ["Size", describeSizes(part)],
    ["Frames", part.times?.length ? `${part.times.length}, at ${list(part.times.map(clock))}` : ""],
    ["Pages", part.pages?.length ? list(part.pages) : ""],
  ].filter(([, value]) => value);
  return el(
    "li",
    {},
    el("strong", {}, PARTS[part.kind] ?? part.kind),
    el(
      "dl",
      { class: "facts" },
      ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]),
    ),
  );
}

function tokenBar(visual, total) {
  const fill = el("span", { class: "token-visual" });
  fill.style.inlineSize = `${total ? (visual / total) * 100 : 0}%`;
  return el("div", { class: "token-bar", "aria-hidden": "true" }, fill);
}

/** Args: `spaceOf(id)`, what names the space of vectors to people. */
export function createExplain({ spaceOf }) {
  const [dialog, body] = [byId("explain"), byId("explain-body")];
  let controller = null;
  dialog.addEventListener("close", () => controller?.abort());

  function show(answer) {
    const text = answer.num_tokens - answer.num_visual_tokens;
    const facts = [
      ["Model", answer.model],
      ["Space", spaceOf(answer.space)],
      ["Read as", answer.role],
      ["Instruction", answer.instruction || "none"],
    ].filter(([, value]) => value);
    body.replaceChildren(
      el(
        "dl",
        { class: "facts" },
        ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]),
      ),
      ...(answer.warnings ?? []).map((warning) => el("p", { class: "warning" }, warning)),
      ...(answer.truncated
        ? [
            el(
              "p",
              { class: "warning" },
              "It was longer than the model reads; the end was cut off.",
            ),
          ]
        : []),
      el("h3", {}, count(answer.num_tokens, ["token", "tokens"])),
      tokenBar(answer.num_visual_tokens, answer.num_tokens),
      el(
        "p",
        { class: "muted legend" },
        el("span", { class: "key visual" }),
        `${answer.num_visual_tokens.toLocaleString("en")} visual`,
        el("span", { class: "key" }),
        `${text.toLocaleString("en")} text`,
      ),
      el("h3", {}, "Parts"),
      el("ul", { class: "parts" }, ...answer.parts.map(partItem)),
      el("h3", {}, "Prompt, as the tokenizer reads it"),
      el("pre", { class: "prompt", tabindex: "0" }, ...promptNodes(answer.prompt)),
    );
  }

  return {
    /** Args: the body of a search, or `{row, space}`. */
    async open(request) {
      controller?.abort();
      controller = new AbortController();
      const { signal } = controller;
      body.replaceChildren(el("p", { class: "muted" }, "Reading\u2026"));
      if (!dialog.open) dialog.showModal();
      try {
        const answer = await api.explain(request, signal);
        if (!signal.aborted) show(answer);
      } catch (error) {
        if (!api.isAbort(error))
          body.replaceChildren(el("p", { class: "warning", role: "alert" }, error.message));
      }
    },
  };
}
