// The pages of one PDF: turn, zoom, and boxes around the words of the query.

import * as api from "./api.js";
import { el, iconButton } from "./dom.js";

const ZOOMS = [1, 1.5, 2, 3, 4]; // of the size at which the whole page is seen
const PAPER = 1 / Math.SQRT2; // width by height until the page is there
const PADDING = 32;
const WIDTHS = [640, 1000, 1400, 2000]; // few, so that the server's pictures are reused

const matching = (number) => (number === 1 ? "1 line matches" : `${number} lines match`);

export function createPages(row, { words, showText, signal }) {
  const last = row.pages ?? row.page ?? 1;
  let number = row.page ?? 1;
  let zoom = 0;
  let turned = 0; // counts turns, so that late answers are dropped

  const image = el("img", { class: "page-image", alt: "" });
  const marks = el("div", { class: "marks", "aria-hidden": "true" });
  const sheet = el("div", { class: "sheet loading" }, image, marks);
  const scroller = el(
    "div",
    { class: "scroller", tabindex: "0", role: "region", "aria-label": "Page" },
    sheet,
  );
  const back = iconButton("back", "Previous page", () => turn(number - 1));
  const next = iconButton("next", "Next page", () => turn(number + 1));
  const label = el("span", { class: "page-label", role: "status" });
  const zoomOut = iconButton("minus", "Zoom out", () => setZoom(zoom - 1));
  const zoomIn = iconButton("plus", "Zoom in", () => setZoom(zoom + 1));
  const zoomLabel = el("span", { class: "zoom-label muted" });
  const found = el("span", { class: "muted" });
  const highlight = el(
    "button",
    {
      type: "button",
      class: "quiet",
      "aria-pressed": "true",
      onclick: () => {
        const on = highlight.getAttribute("aria-pressed") !== "true";
        highlight.setAttribute("aria-pressed", String(on));
        marks.hidden = !on;
      },
    },
    "Highlight words",
  );
  highlight.hidden = !words.trim();
  const bar = el(
    "div",
    { class: "stage-bar" },
    el("div", { class: "group" }, back, label, next),
    el("div", { class: "group" }, zoomOut, zoomLabel, zoomIn),
    el("div", { class: "group" }, highlight, found),
  );

  const observer = new ResizeObserver(() => resize());

  image.addEventListener("load", () => {
    sheet.classList.remove("loading", "broken");
    resize();
  });
  image.addEventListener("error", () => {
    sheet.classList.remove("loading");
    sheet.classList.add("broken");
  });

  function fitted() {
    const ratio = image.naturalWidth ? image.naturalWidth / image.naturalHeight : PAPER;
    const [width, height] = [scroller.clientWidth - PADDING, scroller.clientHeight - PADDING];
    return Math.max(160, Math.min(width, Math.max(height * ratio, 0.5 * width)));
  }

  function load() {
    const wanted = fitted() * ZOOMS[zoom] * Math.min(2, window.devicePixelRatio || 1);
    const width = WIDTHS.find((one) => one >= wanted) ?? WIDTHS.at(-1);
    const source = api.pageUrl(row.id, number, width);
    if (image.getAttribute("src") !== source) image.src = source;
  }

  function setZoom(level) {
    zoom = Math.min(ZOOMS.length - 1, Math.max(0, level));
    zoomLabel.textContent = zoom ? `${ZOOMS[zoom] * 100}%` : "Fit";
    setDisabled(zoomOut, zoom === 0);
    setDisabled(zoomIn, zoom === ZOOMS.length - 1);
    resize();
    load();
  }

  function resize() {
    sheet.style.inlineSize = `${Math.floor(fitted() * ZOOMS[zoom])}px`;
  }

  async function turn(to) {
    if (to < 1 || to > last) return;
    const turning = ++turned;
    number = to;
    image.alt = `Page ${number} of ${row.name}`;
    label.textContent = `Page ${number} of ${last}`;
    setDisabled(back, number === 1);
    setDisabled(next, number === last);
    sheet.classList.add("loading");
    marks.replaceChildren();
    found.textContent = "";
    scroller.scrollTo(0, 0);
    load();
    const answer = await api.boxes(row.id, number, words, signal).catch(() => null);
    if (turning !== turned || signal.aborted) return;
    const all = answer?.boxes ?? [];
    const matches = words.trim() ? all.filter((one) => one.matches) : [];
    marks.replaceChildren(...matches.map(mark));
    found.textContent = highlight.hidden
      ? ""
      : matches.length
        ? matching(matches.length)
        : "No line matches";
    showText(number === row.page ? row.text : all.map((one) => one.text).join("\n"));
  }

  /** A disabled button would lose the focus, so these stay focusable and say that they are off. */
  function setDisabled(button, off) {
    button.setAttribute("aria-disabled", String(off));
  }

  function mark({ left, top, right, bottom }) {
    const node = el("span", { class: "mark" });
    Object.assign(node.style, {
      left: `${left * 100}%`,
      top: `${top * 100}%`,
      width: `${(right - left) * 100}%`,
      height: `${(bottom - top) * 100}%`,
    });
    return node;
  }

  return {
    node: el("div", { class: "stage" }, bar, scroller),
    ready() {
      observer.observe(scroller);
      setZoom(0);
      turn(number);
    },
    stop: () => observer.disconnect(),
    key(event) {
      const scrolls = zoom > 0 && event.target === scroller;
      const by = { ArrowRight: 1, ArrowLeft: -1, PageDown: 1, PageUp: -1 }[event.key];
      if (by && !scrolls) turn(number + by);
      else if (event.key === "+" || event.key === "=") setZoom(zoom + 1);
      else if (event.key === "-") setZoom(zoom - 1);
      else return false;
      return true;
    },
  };
}
