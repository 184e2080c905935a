// The dialog of one result: its picture, film, pages or text, and everything known about it.

import * as api from "./api.js";
import { byId, el, iconButton } from "./dom.js";
import { date, place } from "./format.js";
import { createPages } from "./viewer_pages.js";
import { createVideo } from "./viewer_video.js";

const MOST_ENLARGED = 3;

/**
 * Args: `close()`, `step(by)` to the next result, `like(row)`, `explain(row)`, `words()` of the query.
 * Returns `show(id, position)`, which opens it, and `hide()`.
 */
export function createViewer({ close, step, like, explain, words }) {
  const dialog = byId("viewer");
  let controller = null;
  let shown = null; // id
  let media = null; // {node, key(event), stop()}

  dialog.addEventListener("close", () => {
    stop();
    if (shown !== null) close();
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input")) return;
    const by = { j: 1, k: -1 }[event.key];
    if (by) step(by);
    else if (media?.key?.(event)) event.preventDefault();
  });

  function stop() {
    controller?.abort();
    media?.stop?.();
    media = null;
  }

  function head(title, position) {
    const { rank, total } = position;
    const moves = rank
      ? [
          iconButton("back", "Previous result", () => step(-1), {
            disabled: rank <= 1,
            "data-step": -1,
          }),
          el("span", { class: "muted step" }, `${rank} of ${total}`),
          iconButton("next", "Next result", () => step(1), {
            disabled: rank >= total,
            "data-step": 1,
          }),
        ]
      : [];
    return el(
      "div",
      { class: "dialog-head" },
      el("h2", { id: "viewer-name" }, title),
      el(
        "div",
        { class: "head-end" },
        ...moves,
        iconButton("close", "Close", () => dialog.close()),
      ),
    );
  }

  function facts(row) {
    const list = [
      ["Place", place(row)],
      ["Folder", row.folder],
      ["Changed", row.modified ? date(row.modified) : null],
    ];
    return el(
      "dl",
      { class: "facts" },
      ...list
        .filter(([, value]) => value)
        .flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]),
    );
  }

  function stage(row, textBox, signal) {
    if (row.kind === "video") return createVideo(row);
    if (row.kind === "pdf") {
      const showText = (text) => textBox.replaceChildren(text || "This page has no text layer.");
      return createPages(row, { words: words(), showText, signal });
    }
    return { node: el("div", { class: "stage" }, row.kind === "image" ? picture(row) : textBox) };
  }

  /** As large as there is room, but a small picture grows to thrice its size only. */
  function picture(row) {
    const image = el("img", { class: "large", src: row.media, alt: row.name });
    image.addEventListener("load", () => {
      image.style.maxInlineSize = `${image.naturalWidth * MOST_ENLARGED}px`;
      image.style.maxBlockSize = `${image.naturalHeight * MOST_ENLARGED}px`;
    });
    return image;
  }

  function fill(row, position) {
    const textBox = el("p", { class: "whole-text", tabindex: "0" }, row.text || "");
    media = stage(row, textBox, controller.signal);
    const side = el(
      "div",
      { class: "side" },
      facts(row),
      el(
        "div",
        { class: "side-actions" },
        el(
          "button",
          { type: "button", class: "primary", onclick: () => like(row) },
          "More like this",
        ),
        el("button", { type: "button", class: "quiet", onclick: () => explain(row) }, "Explain"),
      ),
      row.kind === "pdf" ? el("h3", {}, "Text of this page") : null,
      row.kind === "pdf" ? textBox : null,
    );
    const body = el("div", { class: `viewer-body ${row.kind}` }, media.node, side);
    replace(head(row.name, position), body);
    media.ready?.();
  }

  /** New content; the focus stays on the button it was on, or goes to the close button. */
  function replace(...nodes) {
    const by = document.activeElement?.dataset?.step;
    const inside = dialog.contains(document.activeElement);
    dialog.replaceChildren(...nodes);
    if (!inside) return;
    const again = dialog.querySelector(`[data-step="${by}"]:not([disabled])`);
    (again ?? dialog.querySelector(".head-end button:last-child")).focus();
  }

  return {
    async show(id, position) {
      if (shown === id && dialog.open) return;
      stop();
      shown = id;
      controller = new AbortController();
      const { signal } = controller;
      if (!dialog.open) {
        dialog.replaceChildren(
          head("", position),
          el("div", { class: "viewer-body" }, el("div", { class: "stage" })),
        );
        dialog.showModal();
      }
      try {
        const row = await api.row(id, signal);
        if (!signal.aborted) fill(row, position);
      } catch (error) {
        if (api.isAbort(error) || signal.aborted) return;
        replace(
          head("It cannot be shown", position),
          el(
            "div",
            { class: "viewer-body" },
            el("p", { class: "viewer-error", role: "alert" }, error.message),
          ),
        );
      }
    },
    hide() {
      shown = null;
      if (dialog.open) dialog.close();
    },
  };
}
