// A film at the second that matched, with the matched seconds marked on its timeline.

import { el, icon, iconButton } from "./dom.js";
import { clock } from "./format.js";

export function createVideo(row) {
  const start = row.start ?? 0;
  const video = el("video", {
    src: row.media,
    poster: row.thumbnail,
    playsinline: true,
    preload: "auto",
    tabindex: "-1",
    "aria-label": row.name,
    onclick: toggle,
  });
  const play = iconButton("play", "Play", toggle);
  const mute = iconButton("sound", "Mute", () => {
    video.muted = !video.muted;
  });
  const full = iconButton("full", "Full screen", () => {
    if (document.fullscreenElement) document.exitFullscreen();
    else video.requestFullscreen?.().catch(() => null);
  });
  const range = el("span", { class: "match-window" });
  const head = el("span", { class: "playhead" });
  const seek = el("input", {
    type: "range",
    class: "seek",
    min: 0,
    step: 0.1,
    "aria-label": "Position in the film",
    value: start,
  });
  const time = el("span", { class: "time" });
  const problem = el(
    "p",
    { class: "viewer-error", role: "alert", hidden: true },
    "This browser cannot play the film. It is searched all the same.",
  );
  const playMatch = el(
    "button",
    { type: "button", class: "quiet", onclick: replay },
    "Play the match",
  );
  let stopAt = null; // while the match plays: where it ends

  const end = () => row.end ?? row.duration ?? video.duration;
  const duration = () =>
    Number.isFinite(video.duration) ? video.duration : (row.duration ?? end());
  const begin = () => video.play().catch(() => null);

  function toggle() {
    stopAt = null;
    if (video.paused) begin();
    else video.pause();
  }

  function replay() {
    video.currentTime = start;
    stopAt = end();
    begin();
  }

  function rename(button, name, label) {
    button.replaceChildren(icon(name), el("span", { class: "sr" }, label));
    button.title = label;
  }

  function draw() {
    const whole = duration() || 1;
    range.style.left = `${Math.min(100, (start / whole) * 100)}%`;
    range.style.width = `${Math.max(0.5, Math.min(100, ((end() - start) / whole) * 100))}%`;
    head.style.left = `${Math.min(100, (video.currentTime / whole) * 100)}%`;
    seek.max = whole;
    seek.value = video.currentTime;
    seek.setAttribute("aria-valuetext", `${clock(video.currentTime)} of ${clock(whole)}`);
    time.textContent = `${clock(Math.floor(video.currentTime))} / ${clock(Math.round(whole))}`;
  }

  video.addEventListener("loadedmetadata", () => {
    video.currentTime = Math.min(start, Math.max(0, video.duration - 0.05));
    draw();
  });
  video.addEventListener("timeupdate", () => {
    if (stopAt !== null && video.currentTime >= stopAt) {
      stopAt = null;
      video.pause();
    }
    draw();
  });
  video.addEventListener("seeked", draw);
  video.addEventListener("play", () => rename(play, "pause", "Pause"));
  video.addEventListener("pause", () => rename(play, "play", "Play"));
  video.addEventListener("volumechange", () =>
    video.muted ? rename(mute, "muted", "Unmute") : rename(mute, "sound", "Mute"),
  );
  video.addEventListener("error", () => {
    problem.hidden = !video.hasAttribute("src");
  });
  seek.addEventListener("input", () => {
    stopAt = null;
    video.currentTime = Number(seek.value);
  });

  return {
    node: el(
      "div",
      { class: "stage film" },
      el("div", { class: "screen" }, video),
      problem,
      el(
        "div",
        { class: "timeline" },
        el("div", { class: "track" }, range, head, seek),
        el(
          "div",
          { class: "timeline-row" },
          play,
          time,
          playMatch,
          el("span", { class: "gap" }),
          mute,
          full,
        ),
      ),
    ),
    ready: draw,
    key(event) {
      if (event.key !== " " || event.target.matches("button")) return false;
      toggle();
      return true;
    },
    stop() {
      video.pause();
      video.removeAttribute("src");
      video.load();
    },
  };
}
