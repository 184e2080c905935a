// Makes elements. Text reaches the page as text nodes only, never as markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element; `on*` props are listeners, absent values are left out, strings become text. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** A button that shows an icon and is called by `label`. */
export function iconButton(name, label, onclick, props = {}) {
  return el(
    "button",
    { type: "button", class: "icon-button", title: label, ...props, onclick },
    icon(name),
    el("span", { class: "sr" }, label),
  );
}

/** A picture that loads when it comes near the screen; a broken one shows the icon of its kind. */
export function thumbnail(hit) {
  if (!hit.thumbnail) return el("span", { class: "thumb-blank" }, icon(hit.kind));
  const image = el("img", {
    src: hit.thumbnail,
    alt: "",
    loading: "lazy",
    decoding: "async",
    draggable: "false",
    width: hit.width,
    height: hit.height,
  });
  image.addEventListener("error", () => {
    image.replaceWith(el("span", { class: "thumb-blank" }, icon(hit.kind)));
  });
  return image;
}

export const byId = (id) => document.getElementById(id);
