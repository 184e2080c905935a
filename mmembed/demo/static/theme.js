// Colours before the first paint: what the reader chose last, else what the system prefers.
(function () {
  try {
    const theme = localStorage.getItem("mmembed.theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // Storage is refused: follow the system.
  }
})();
