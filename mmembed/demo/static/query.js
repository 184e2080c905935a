// The search field: words, and attached images, clips and PDF pages as chips.

import * as api from "./api.js";
import { byId, el, icon, iconButton } from "./dom.js";
import { bytes, place } from "./format.js";

const STORED = "mmembed.uploads";
const named = (name, message) => (message.includes(name) ? message : `${name}: ${message}`);

/**
 * Args: `getState()`, `update(change)` which searches, `getInfo()`.
 * Returns `show(state)`, which makes the field agree with a state, and `focus()`.
 */
export function createQuery({ getState, update, getInfo }) {
  const [form, text, chips, file] = ["search", "text", "chips", "file"].map(byId);
  const [clear, attach, fieldError, drop] = ["clear", "attach", "field-error", "drop"].map(byId);
  const known = recall(); // details of uploads by id: the hash holds ids only
  const likes = new Map(); // names of the rows that "more like this" started from
  let pending = []; // {name, controller}
  let drags = 0;
  let shown = "";

  function recall() {
    try {
      return new Map(JSON.parse(sessionStorage.getItem(STORED) ?? "[]"));
    } catch {
      return new Map();
    }
  }

  function remember(upload) {
    known.set(upload.id, upload);
    try {
      sessionStorage.setItem(STORED, JSON.stringify([...known].slice(-50)));
    } catch {
      // Storage is refused: chips lose their names at the next load, nothing else.
    }
  }

  function complain(message) {
    fieldError.textContent = message;
    fieldError.hidden = !message;
  }

  async function add(files) {
    complain("");
    const problems = [];
    await Promise.all(
      [...files].map(async (chosen) => {
        const limit = getInfo()?.limits.upload_bytes;
        if (limit && chosen.size > limit) {
          problems.push(`${chosen.name} has ${bytes(chosen.size)}; the limit is ${bytes(limit)}.`);
          return;
        }
        const entry = { name: chosen.name || "pasted", controller: new AbortController() };
        pending.push(entry);
        renderChips(getState());
        try {
          const upload = await api.upload(chosen, entry.controller.signal);
          remember(upload);
          const page = upload.kind === "pdf" ? 1 : null;
          const { uploads } = getState();
          pending = pending.filter((other) => other !== entry);
          update({
            uploads: [...uploads, { id: upload.id, page, start: null, end: null }],
            text: text.value,
            open: "",
          });
        } catch (error) {
          pending = pending.filter((other) => other !== entry);
          if (!api.isAbort(error)) problems.push(named(entry.name, error.message));
        }
      }),
    );
    renderChips(getState());
    if (problems.length) complain(problems.join(" "));
  }

  function change(id, values) {
    const uploads = getState().uploads.map((one) => (one.id === id ? { ...one, ...values } : one));
    update({ uploads, text: text.value });
  }

  function remove(id) {
    update({ uploads: getState().uploads.filter((one) => one.id !== id), text: text.value });
    text.focus();
  }

  function numberField(label, value, props, onchange) {
    const input = el("input", {
      type: "number",
      inputmode: "decimal",
      "aria-label": label,
      value: value ?? "",
      ...props,
      onchange: () => {
        if (input.reportValidity()) onchange(input.value === "" ? null : Number(input.value));
      },
    });
    return input;
  }

  function chip(upload) {
    const details = known.get(upload.id) ?? { kind: "image", name: "Attached file" };
    const { id } = upload;
    const picture = el("img", {
      src: details.thumbnail ?? api.uploadThumbnail(id),
      alt: "",
      width: 40,
      height: 40,
    });
    picture.addEventListener("error", () => picture.replaceWith(icon(details.kind)));
    const controls = [];
    if (details.kind === "pdf") {
      const pages = details.pages ?? undefined;
      controls.push(
        el(
          "label",
          { class: "chip-control" },
          "page",
          numberField(
            `Page of ${details.name}`,
            upload.page,
            { min: 1, max: pages, step: 1, required: true },
            (page) => change(id, { page }),
          ),
        ),
      );
      if (pages) controls.push(el("span", { class: "muted" }, `of ${pages}`));
    }
    if (details.kind === "video") {
      const props = { min: 0, max: details.duration ?? undefined, step: "any" };
      const whole = details.duration ? details.duration.toFixed(1) : "end";
      controls.push(
        el(
          "label",
          { class: "chip-control" },
          "from",
          numberField(
            `Start in ${details.name}, seconds`,
            upload.start,
            { ...props, placeholder: "0" },
            (start) => change(id, { start }),
          ),
        ),
        el(
          "label",
          { class: "chip-control" },
          "to",
          numberField(
            `End in ${details.name}, seconds`,
            upload.end,
            { ...props, placeholder: whole },
            (end) => change(id, { end }),
          ),
        ),
        el("span", { class: "muted" }, "s"),
      );
    }
    return el(
      "li",
      { class: "chip", "data-kind": details.kind },
      picture,
      el("span", { class: "chip-name" }, details.name),
      ...controls,
      iconButton("close", `Remove ${details.name}`, () => remove(id)),
    );
  }

  function likeChip(id) {
    const known = likes.get(id);
    const name = el("span", { class: "chip-name" }, known ? `Like ${known.name}` : "Like this");
    const picture = el("span", { class: "chip-picture" });
    const fill = (hit) => {
      name.textContent = ["Like " + hit.name, place(hit)].filter(Boolean).join(", ");
      picture.replaceChildren(
        hit.thumbnail
          ? el("img", { src: hit.thumbnail, alt: "", width: 40, height: 40 })
          : icon(hit.kind),
      );
    };
    if (known) fill(known);
    else
      api
        .row(id)
        .then((hit) => {
          likes.set(id, hit);
          fill(hit);
        })
        .catch(() => null);
    return el(
      "li",
      { class: "chip", "data-kind": "like" },
      picture,
      name,
      iconButton("close", "Remove the example", () => {
        update({ like: "" });
        text.focus();
      }),
    );
  }

  function renderChips(state) {
    const focused = document.activeElement?.getAttribute("aria-label");
    const items = state.uploads.map(chip);
    if (state.like) items.unshift(likeChip(state.like));
    for (const entry of pending) {
      items.push(
        el(
          "li",
          { class: "chip pending" },
          el("span", { class: "spinner", "aria-hidden": "true" }),
          el("span", { class: "chip-name" }, `Reading ${entry.name}`),
          iconButton("close", `Stop reading ${entry.name}`, () => entry.controller.abort()),
        ),
      );
    }
    chips.replaceChildren(...items);
    chips.hidden = !items.length;
    if (focused)
      [...chips.querySelectorAll("input")].find((one) => one.ariaLabel === focused)?.focus();
    const attached = state.uploads.length || state.like;
    text.placeholder = attached
      ? "Add words, as in \u201cbut at night\u201d"
      : "Describe what you look for";
    showClear();
  }

  function showClear() {
    const state = getState();
    clear.hidden = !(text.value || state.uploads.length || state.like);
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    complain("");
    update({ text: text.value, open: "" }, { force: true });
  });
  text.addEventListener("input", showClear);
  clear.addEventListener("click", () => {
    for (const entry of pending) entry.controller.abort();
    text.value = "";
    complain("");
    update({ text: "", uploads: [], like: "" });
    text.focus();
  });
  attach.addEventListener("click", () => file.click());
  file.addEventListener("change", () => {
    add(file.files);
    file.value = "";
  });
  document.addEventListener("paste", (event) => {
    if (!event.clipboardData?.files.length || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    add(event.clipboardData.files);
  });

  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  const showDrop = (change) => {
    drags = Math.max(0, drags + change);
    drop.hidden = !drags;
  };
  document.addEventListener("dragenter", (event) => carriesFiles(event) && showDrop(1));
  document.addEventListener("dragleave", (event) => carriesFiles(event) && showDrop(-1));
  document.addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    showDrop(-drags);
    add(event.dataTransfer.files);
  });

  return {
    show(state) {
      if (state.text !== shown) text.value = state.text; // else what is being typed stays
      shown = state.text;
      renderChips(state);
    },
    limit(limits) {
      text.maxLength = limits.text_chars;
    },
    rememberLike: (hit) => likes.set(hit.id, hit),
    words: () => text.value,
    focus: () => text.select(),
  };
}
