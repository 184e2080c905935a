// Keys that work anywhere on the page, and arrows that walk through the results.

import { byId } from "./dom.js";

const typing = (node) =>
  node.matches?.("input:not([type=checkbox], [type=radio], [type=range]), textarea, select");

/** The card in the direction of an arrow key: neighbours along the row, the nearest in the next row. */
export function neighbour(cards, at, key) {
  if (key === "ArrowRight") return cards[at + 1];
  if (key === "ArrowLeft") return cards[at - 1];
  if (key === "Home") return cards[0];
  if (key === "End") return cards.at(-1);
  const here = cards[at].getBoundingClientRect();
  const below = key === "ArrowDown";
  let best;
  let least = Infinity;
  for (const card of cards) {
    const there = card.getBoundingClientRect();
    const rows = below ? there.top - here.top : here.top - there.top;
    if (rows <= 4) continue;
    const distance = rows * 1000 + Math.abs(there.left - here.left);
    if (distance < least) [best, least] = [card, distance];
  }
  return best;
}

export function listenToKeys({ cards, focusSearch, help }) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (document.querySelector("dialog[open]")) return;
    const { target, key } = event;
    if (!typing(target) && (key === "/" || key === "?")) {
      event.preventDefault();
      if (key === "/") focusSearch();
      else help();
      return;
    }
    if (target === byId("text") && key === "ArrowDown") {
      const [first] = cards();
      if (first) {
        event.preventDefault();
        first.focus();
      }
      return;
    }
    if (!target.matches?.(".card-open") || !/^(Arrow|Home$|End$)/.test(key)) return;
    const all = cards();
    const at = all.indexOf(target);
    const next = neighbour(all, at, key);
    event.preventDefault();
    if (next) next.focus();
    else if (key === "ArrowUp") focusSearch();
  });
}
