// What is shown and what a person does; numbers come from numbers.js.
(function () {
  const { data, get, within, digits, element, option, draw } = common;
  const count = data.words.length;
  const numbers = readsTraces(count, data.factor);
  const LISTED = 12;
  const CONTEXT = 5;
  const state = { at: data.checkpoints.length - 1, item: 0, other: -1, filter: "",
    direction: "on", unit: "correlation", apart: false };
  const members = new Map(Object.entries(data.classes).map(([name, at]) => [name, new Set(at)]));
  const spans = [];
  const tints = [];
  let traces = [];
  let current = null;

  // Influence and standard error of items [from, to) on item i.
  const row = (at, i, from = 0, to = count) =>
    numbers.row(traces[at], i, state.unit === "correlation", from, to);
  const mixed = (at) => traces[at].verdict === "mixed";
  const sure = (value, error, at) => Math.abs(value) > traces[at].t * error;
  const counted = (j) => j !== state.item &&
    (state.filter === "" || members.get(state.filter).has(j)) &&
    !(state.apart && data.token[j] === data.token[state.item]);

  // ---- text ----
  const shown = (word) => word.replace(/\r/g, "␍").replace(/\n/g, "↵").replace(/\t/g, "→");

  function writeText() {
    let line = null;
    for (let j = 0; j < count; j++) {
      if (j === 0 || data.row[j] !== data.row[j - 1]) {
        line = element("div", "row");
        line.append(element("span", "number", data.row[j]));
        get("text").append(line);
      }
      const word = data.words[j];
      const text = shown(word).replace(/↵/g, "↵\n");
      const span = element("span", "token", text === "" ? "∅" : text);
      span.dataset.item = j;
      spans.push(span);
      line.append(span);
    }
  }

  function context(j) {
    const made = element("span", "context");
    const word = (k) => data.row[k] === data.row[j] ? shown(data.words[k]) : "";
    let before = "", after = "";
    for (let k = Math.max(0, j - CONTEXT); k < j; k++) before += word(k);
    for (let k = j + 1; k <= Math.min(count - 1, j + CONTEXT); k++) after += word(k);
    made.append(before.slice(-10), element("b", "", word(j)), after);
    return made;
  }

  // ---- what follows the state ----
  const strongest = (sign) => common.strongest(count, sign,
    (j) => counted(j) ? current.value[j] : NaN, LISTED);

  function scaleOf() {
    const sizes = new Float64Array(count);
    let size = 0;
    for (let j = 0; j < count; j++)
      if (counted(j) && Number.isFinite(current.value[j]))
        sizes[size++] = Math.abs(current.value[j]);
    const known = sizes.subarray(0, size).sort();
    return size ? known[Math.floor(0.99 * (size - 1))] || 1 : 1;
  }

  function colour() {
    const top = scaleOf();
    for (let j = 0; j < count; j++) {
      const span = spans[j];
      const value = current.value[j];
      const inside = counted(j);
      const known = inside && Number.isFinite(value);
      const strong = known && sure(value, current.error[j], state.at);
      const name = "token" + (j === state.item ? " chosen" : j === state.other ? " partner" : "") +
        (j !== state.item && !inside ? " out" : known && !strong ? " faded" : "");
      if (span.className !== name) span.className = name;
      const depth = known ? Math.min(1, Math.abs(value) / top) * (strong ? .65 : .18) : 0;
      const tint = depth < .01 ? "" :
        `rgba(var(--${value < 0 ? "help" : "harm"}), ${depth.toFixed(2)})`;
      if (tints[j] !== tint) span.style.backgroundColor = tints[j] = tint;
    }
    get("low").textContent = `helps ${digits(-top)}`;
    get("high").textContent = `${digits(top)} harms`;
  }

  function list(id, order) {
    get(id).replaceChildren(...order.map((j) => {
      const faded = !sure(current.value[j], current.error[j], state.at);
      const title = `row ${data.row[j]}, position ${data.position[j]}` +
        (faded ? "; within its 95 % interval of 0" : "");
      return common.listed(j, current.value[j], context(j),
        { faded, current: j === state.other, title });
    }));
  }

  function describe() {
    const i = state.item, j = state.other;
    const said = get("chosen");
    const name = (k) => element("code", "", shown(data.words[k]));
    const where = ` (row ${data.row[i]}, position ${data.position[i]})`;
    const classes = [...members].filter(([, set]) => set.has(i)).map(([n]) => n.replace(/_/g, " "));
    said.replaceChildren("Token ", name(i), where + (classes.length ? `, ${classes.join(", ")}` : ""));
    if (j < 0) return;
    const [query, train] = state.direction === "on" ? [i, j] : [j, i];
    get("caption").replaceChildren(
      "Influence of ", name(train), ` (${data.row[train]}:${data.position[train]}) on the loss of `,
      name(query), ` (${data.row[query]}:${data.position[query]}): ${digits(current.value[j])} ± ` +
      `${digits(current.error[j] * traces[state.at].t).replace("+", "")} at step ` +
      `${traces[state.at].step}. The band is a 95 % interval${hollow()}.`);
  }

  // Which points are hollow, and why: "; hollow: step 250 (short), step 500 (not mixed)".
  function hollow() {
    const some = traces.filter((one) => one.verdict !== "mixed" && one.verdict !== "diverged");
    return some.length === 0 ? ""
      : `; hollow: ${some.map((one) => `step ${one.step} (${one.verdict})`).join(", ")}`;
  }

  // The class that stands for a token in the curve: the chosen one if it is in it, else its first.
  function classOf(j) {
    const names = [...members.keys()];
    if (state.filter !== "" && members.get(state.filter).has(j)) return names.indexOf(state.filter);
    return names.findIndex((name) => members.get(name).has(j));
  }

  function betweenClasses() {
    const [query, train] = state.direction === "on" ? [state.item, state.other]
      : [state.other, state.item];
    const q = classOf(query), i = classOf(train);
    if (q < 0 || i < 0 || state.unit !== "correlation") return null;
    const { value, low, high } = data.between;
    const points = traces.map((one, at) => ({ step: one.step, value: value[at][q][i],
      low: low[at][q][i] ?? value[at][q][i], high: high[at][q][i] ?? value[at][q][i] }));
    const names = [...members.keys()].map((name) => name.replace(/_/g, " "));
    return { points: points.filter((p) => p.value !== null), query: names[q], train: names[i] };
  }

  function curve() {
    const svg = get("curve");
    svg.replaceChildren();
    if (state.other < 0) return;
    const left = 68, right = 408, top = 12, bottom = 188;
    const points = traces.map((one, at) => {
      const found = row(at, state.item, state.other, state.other + 1);
      return { at, step: one.step, value: found.value[0], half: one.t * found.error[0] };
    }).filter((p) => Number.isFinite(p.value));
    if (points.length === 0) return;
    for (const p of points) {
      const half = Number.isFinite(p.half) ? p.half : 0;
      p.low = p.value - half;
      p.high = p.value + half;
    }
    const classes = betweenClasses();
    const all = [...points, ...(classes ? classes.points : [])];
    const high = Math.max(0, ...all.map((p) => p.high));
    const low = Math.min(0, ...all.map((p) => p.low));
    const room = (high - low || 1) * .06;
    const steps = traces.map((one) => one.step);
    const width = steps[steps.length - 1] - steps[0] || 1;
    const x = (step) => left + (right - left) *
      (steps.length > 1 ? (step - steps[0]) / width : .5);
    const y = (value) => bottom - (bottom - top) * (value - low + room) / (high - low + 2 * room);
    svg.append(draw("path", { class: "axis", d: `M${left},${top}V${bottom}H${right}` }));
    const labels = high - low < 1e-3 ? 2 : 3;
    for (const value of new Set([low, 0, high])) {
      if (value !== 0 && Math.abs(y(value) - y(0)) < 14) continue;
      const shownValue = Math.abs(value) < 1e-3 && value !== 0 ? value.toExponential(1)
        : value.toFixed(labels);
      svg.append(draw("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, shownValue));
    }
    svg.append(draw("path", { class: "zero", d: `M${left},${y(0)}H${right}` }));
    const now = x(traces[state.at].step);
    svg.append(draw("path", { class: "now", d: `M${now},${top}V${bottom}` }));
    const path = (list, key) => list.map((p) => `${x(p.step)},${y(p[key])}`);
    for (const [list, kind] of [[classes ? classes.points : [], " classes"], [points, ""]]) {
      if (list.length === 0) continue;
      const band = [...path(list, "high"), ...path(list, "low").reverse()].join("L");
      svg.append(draw("path", { class: `band${kind}`, d: `M${band}Z` }));
      svg.append(draw("path", { class: `line${kind}`, d: `M${path(list, "value").join("L")}` }));
    }
    if (classes && classes.points.length)
      get("caption").append(` Dashed: mean influence of ${classes.train} on ${classes.query}.`);
    for (const p of points) {
      const kind = `dot ${mixed(p.at) ? "good" : "bad"}`;
      const dot = draw("circle", { class: kind, cx: x(p.step), cy: y(p.value), r: 3.5 });
      dot.addEventListener("click", () => change({ at: p.at }));
      svg.append(dot);
    }
    svg.append(draw("text", { x: x(steps[0]), y: bottom + 16, "text-anchor": "middle" }, steps[0]));
    if (steps.length > 1)
      svg.append(draw("text", { x: right, y: bottom + 16, "text-anchor": "end" },
        steps[steps.length - 1]));
    svg.append(draw("text", { x: (left + right) / 2, y: bottom + 32, "text-anchor": "middle" },
      "training step"));
    const label = state.unit === "correlation" ? "minus correlation" : "d loss / d weight";
    svg.append(draw("text", { transform: `translate(10 ${(top + bottom) / 2}) rotate(-90)`,
      "text-anchor": "middle" }, `${label} (negative: helps)`));
  }

  function controls() {
    const one = traces[state.at];
    get("slider").value = state.at;
    get("slider").setAttribute("aria-valuetext", `step ${one.step}, ${one.verdict}`);
    get("step").textContent = `step ${one.step}`;
    get("verdict").textContent = one.verdict === "mixed" ? "mixed"
      : one.verdict === "short" ? `short: ${Math.round(one.ess)} effective draws`
        : one.verdict === "diverged" ? "diverged: no chains are left"
          : one.r_hat === null ? "not mixed" : `not mixed: R-hat ${one.r_hat.toFixed(2)}`;
    get("verdict").className = one.verdict === "mixed" ? "" : "bad";
    get("filter").value = state.filter;
    get("direction").value = state.direction;
    get("unit").value = state.unit;
    get("apart").checked = state.apart;
  }

  function link() {
    const words = { t: traces[state.at].step, item: state.item, other: state.other,
      class: state.filter, direction: state.direction, unit: state.unit,
      apart: Number(state.apart) };
    return "#" + new URLSearchParams(words).toString();
  }

  function restore() {
    const words = new URLSearchParams(location.hash.slice(1));
    const whole = (name, limit) => {
      const k = Number.parseInt(words.get(name), 10);
      return k >= 0 && k < limit ? k : null;
    };
    const at = traces.findIndex((one) => String(one.step) === words.get("t"));
    if (at >= 0) state.at = at;
    state.item = whole("item", count) ?? state.item;
    state.other = whole("other", count) ?? -1;
    state.filter = members.has(words.get("class")) ? words.get("class") : "";
    state.direction = words.get("direction") === "of" ? "of" : "on";
    state.unit = words.get("unit") === "covariance" ? "covariance" : "correlation";
    state.apart = words.get("apart") === "1";
  }

  function show() {
    current = row(state.at, state.item);
    const helpers = strongest(-1), harmers = strongest(1);
    if (state.other < 0 || state.other === state.item)
      state.other = helpers[0] ?? harmers[0] ?? -1;
    colour();
    list("helpers", helpers);
    list("harmers", harmers);
    controls();
    describe();
    curve();
  }

  function change(words) {
    if (words.item !== undefined && words.item !== state.item && words.other === undefined)
      words.other = -1;
    Object.assign(state, words);
    show();
    history.replaceState(null, "", link());
    return state;
  }

  // ---- what a person does ----
  function key(event) {
    if (common.taken(event)) return;
    const moves = {
      ArrowLeft: { item: within(state.item - 1, count) },
      ArrowRight: { item: within(state.item + 1, count) },
      ArrowUp: { at: within(state.at + 1, traces.length) },
      ArrowDown: { at: within(state.at - 1, traces.length) },
      Home: { at: 0 },
      End: { at: traces.length - 1 },
    };
    const slides = event.target === get("slider");
    const move = slides && event.key === "ArrowLeft" ? moves.ArrowDown
      : slides && event.key === "ArrowRight" ? moves.ArrowUp : moves[event.key];
    if (move === undefined) return;
    event.preventDefault();
    change(move);
    if (move.item !== undefined) spans[state.item].scrollIntoView({ block: "nearest" });
  }

  // The next token that has a text, after the chosen one and round the end.
  function search(text) {
    const wanted = text.toLowerCase();
    for (let k = 1; k <= count; k++) {
      const j = (state.item + k) % count;
      if (wanted !== "" && data.words[j].toLowerCase().includes(wanted)) {
        change({ item: j });
        spans[j].scrollIntoView({ block: "center" });
        return;
      }
    }
  }

  function clicks() {
    get("search").addEventListener("keydown", (event) => {
      if (event.key === "Enter") search(get("search").value);
    });
    get("text").addEventListener("click", (event) => {
      const span = event.target.closest(".token");
      if (!span) return;
      const j = Number(span.dataset.item);
      if (event.shiftKey && j !== state.item) change({ other: j });
      else change({ item: j });
    });
    for (const id of ["helpers", "harmers"])
      get(id).addEventListener("click", (event) => {
        const button = event.target.closest("button");
        if (!button) return;
        const j = Number(button.dataset.item);
        change({ other: j });
        spans[j].scrollIntoView({ block: "nearest" });
      });
    get("text").addEventListener("mouseover", (event) => {
      const span = event.target.closest(".token");
      if (!span || current === null) return;
      const j = Number(span.dataset.item);
      span.title = `row ${data.row[j]}, position ${data.position[j]}: ` +
        `${digits(current.value[j])} ± ${digits(current.error[j]).replace("+", "")}`;
    });
    get("slider").addEventListener("input", () => change({ at: Number(get("slider").value) }));
    for (const id of ["filter", "direction", "unit"])
      get(id).addEventListener("change", () => change({ [id]: get(id).value }));
    get("apart").addEventListener("change", () => change({ apart: get("apart").checked }));
    document.addEventListener("keydown", key);
    window.addEventListener("hashchange", () => { restore(); show(); });
  }

  function begin() {
    common.theme();
    document.title = `${data.title} (dlnflow explorer)`;
    get("title").textContent = data.title;
    get("slider").max = data.checkpoints.length - 1;
    get("marks").append(...data.checkpoints.map((_, at) => option(at)));
    for (const name of members.keys()) get("filter").append(option(name, name.replace(/_/g, " ")));
    const { largest_error: error, error_over_floor: share } = data.error;
    get("accuracy").textContent =
      `The page has ${common.megabytes()} MB. It keeps losses as rounded ` +
      "integers" + (error === null ? "." : ", which changes a correlation by at most " +
      `${error.toPrecision(2)}, ${(100 * share).toPrecision(2)} % of the noise floor.`);
    writeText();
  }

  async function start() {
    begin();
    for (const point of data.checkpoints) traces.push(await numbers.unpack(point));
    if (location.hash.length > 1) restore();
    clicks();
    change({});
    window.explorer = { row, change, state, link };
    document.body.dataset.ready = "yes";
  }

  common.run(start);
})();
