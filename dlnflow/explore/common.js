"use strict";
// What all pages share: numbers that stand as text, elements, colours, and the choice of a theme.
const common = (function () {
  const get = (id) => document.getElementById(id);

  // ---- numbers ----
  function bytesOf(text) {
    const raw = atob(text);
    const bytes = new Uint8Array(raw.length);
    for (let k = 0; k < raw.length; k++) bytes[k] = raw.charCodeAt(k);
    return bytes;
  }

  const floats = (text) => new Float32Array(bytesOf(text).buffer);

  // Integers of 2 or 4 bytes, as dlnflow/explore/document.py packs them.
  async function integers(text, width) {
    const stream = new Blob([bytesOf(text)]).stream()
      .pipeThrough(new DecompressionStream("deflate"));
    const planes = new Uint8Array(await new Response(stream).arrayBuffer());
    const size = planes.length / width;
    const values = new (width === 2 ? Int16Array : Int32Array)(size);
    for (let k = 0; k < size; k++) {
      let folded = 0;
      for (let b = 0; b < width; b++) folded |= planes[b * size + k] << (8 * b);
      values[k] = (folded >>> 1) ^ -(folded & 1);
    }
    return values;
  }

  const within = (k, limit) => Math.max(0, Math.min(limit - 1, k));

  const digits = (x) => {
    if (!Number.isFinite(x)) return "none";
    const small = x !== 0 && Math.abs(x) < 1e-3;
    return (x > 0 ? "+" : x < 0 ? "−" : "") +
      (small ? Math.abs(x).toExponential(1) : Math.abs(x).toFixed(3));
  };

  // ---- elements: only textContent, so that no name is markup ----
  function element(name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function option(value, text) {
    const made = element("option", "", text);
    made.value = value;
    return made;
  }

  function draw(name, attributes, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // A line of a list: a value, what it belongs to, and whether it is chosen.
  function listed(item, value, content, { faded = false, current = false, title = "" } = {}) {
    const line = element("li");
    const button = element("button", faded ? "faded" : "");
    button.type = "button";
    button.dataset.item = item;
    button.setAttribute("aria-current", String(current));
    button.title = title;
    button.append(element("span", "value", digits(value)), content);
    line.append(button);
    return line;
  }

  // Places of the `most` largest positive values of sign * value(j), the largest first.
  function strongest(count, sign, value, most) {
    const best = [];
    for (let j = 0; j < count; j++) {
      const own = sign * value(j);
      if (!(own > 0)) continue;
      if (best.length === most && own <= sign * value(best[most - 1])) continue;
      let place = best.length;
      while (place > 0 && sign * value(best[place - 1]) < own) place--;
      best.splice(place, 0, j);
      if (best.length > most) best.pop();
    }
    return best;
  }

  // ---- theme: that of the system until a person chooses ----
  function theme(changed = () => {}) {
    const root = document.documentElement;
    const system = matchMedia("(prefers-color-scheme: dark)");
    const follow = () => {
      root.dataset.theme = system.matches ? "dark" : "light";
      changed();
    };
    follow();
    system.addEventListener("change", follow);
    get("theme").addEventListener("click", () => {
      system.removeEventListener("change", follow);
      root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
      changed();
    });
  }

  // Keys belong to the page unless a control takes them.
  const taken = (event) => event.ctrlKey || event.metaKey || event.altKey ||
    event.target.closest("select, input:not([type=range]), summary");

  function run(start) {
    start().catch((error) => {
      get("chosen").textContent = `This page cannot be shown: ${error.message}`;
      throw error;
    });
  }

  const data = JSON.parse(get("data").textContent);
  const megabytes = () => (Number(data.bytes) / 1e6).toFixed(2);
  return { data, get, floats, integers, within, digits, element, option, draw, listed, strongest,
    theme, taken, run, megabytes };
})();
