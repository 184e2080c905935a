// Numbers, times and sizes as people read them.

export const KIND_NAMES = {
  image: ["image", "images"],
  video: ["clip", "clips"],
  pdf: ["page", "pages"],
  text: ["passage", "passages"],
};

export function count(number, [one, many]) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

/** 75.5 -> "1:15.5"; whole seconds show no tenths. */
export function clock(seconds) {
  const tenths = Math.round(seconds * 10);
  const whole = Math.floor(tenths / 10);
  const minutes = Math.floor(whole / 60) % 60;
  const hours = Math.floor(whole / 3600);
  const rest = String(whole % 60).padStart(2, "0") + (tenths % 10 ? `.${tenths % 10}` : "");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

export function milliseconds(value) {
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  return value >= 10 ? `${Math.round(value)} ms` : `${value.toFixed(1)} ms`;
}

export function bytes(value) {
  if (value >= 1e9) return `${(value / 1e9).toFixed(1)} GB`;
  return value >= 1e6
    ? `${Math.round(value / 1e6)} MB`
    : `${Math.max(1, Math.round(value / 1e3))} kB`;
}

/** Text on one line, without the marks of Markdown. */
export const excerpt = (text) => (text ?? "").replace(/[\s#*_]+/g, " ").trim();

export const score = (value) => value.toFixed(Math.abs(value) >= 10 ? 1 : 3);

/** Where in its file a hit stands: "Page 3 of 18", "0:12\u20130:16". */
export function place(hit) {
  if (hit.kind === "pdf" && hit.page) {
    return `Page ${hit.page}${hit.pages ? ` of ${hit.pages}` : ""}`;
  }
  if (hit.kind === "video" && hit.start !== null && hit.end !== null) {
    return `${clock(Math.round(hit.start))}\u2013${clock(Math.round(hit.end))}`;
  }
  return hit.place || "";
}

export const size = ([width, height]) => `${width} \u00d7 ${height}`;

export function date(iso) {
  const day = new Date(iso);
  if (Number.isNaN(day.getTime())) return iso;
  return day.toLocaleDateString(undefined, { year: "numeric", month: "short", day: "numeric" });
}
