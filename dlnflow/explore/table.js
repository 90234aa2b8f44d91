// What is shown of a table and what a person does; numbers come from table_numbers.js.
(function () {
  const { data, get, floats, within, digits, element, option } = common;
  const { curveAt, planeAt, placeOf, events, between } = tableNumbers;
  const LISTED = 10, MOST_PATHS = 60, MOST_BRANCHES = 40, PARTS = 6, SECONDS = 10;
  const time = data.flow_time || data.steps;
  const end = time[time.length - 1];
  const timeName = data.flow_time ? "training time (flow time)" : "training time (steps)";
  const queries = data.query.length, trains = data.train.length, steps = data.steps.length;
  const itemOf = new Map(data.items.map((name, k) => [name, k]));
  const queryOf = new Map(data.query.map((name, k) => [name, k]));
  const trainOf = new Map(data.train.map((name, k) => [name, k]));
  const state = { at: 0, query: 0, train: 0, estimator: 0, branch: -1, scale: "run",
    direction: "of", axes: 0, axis: data.log ? "log" : "linear" };
  const cache = { estimator: -1, at: -1, plane: null, uncertain: null, of: null };
  let estimators = [], modes = null, run = null, look = null;
  let hover = null, onMatrix = null, onPlaces = null, playing = null;

  const timeOf = (step) => between(data.steps, time, step);
  const pair = () => hover || state;
  const nearestTo = (t) => {
    let best = 0;
    for (let k = 1; k < steps; k++)
      if (Math.abs(time[k] - t) < Math.abs(time[best] - t)) best = k;
    return best;
  };
  // Share of the axis that is over at a time, and the time at a share; the start is 0 on both axes.
  const logarithmic = () => state.axis === "log";
  const ends = () => [logarithmic() ? time.find((t) => t > 0) ?? end : time[0], end];
  const shareAt = (t) => {
    const [a, b] = ends();
    if (t <= a || a === b) return 0;
    return logarithmic() ? Math.log(t / a) / Math.log(b / a) : (t - a) / (b - a);
  };
  const timeAt = (share) => {
    const [a, b] = ends();
    if (share <= 0) return time[0];
    return logarithmic() ? a * (b / a) ** share : a + share * (b - a);
  };

  // ---- numbers ----
  function valuesOf(one, q, i) {
    const place = placeOf(one.symmetric, trains, q, i);
    const at = (tensor) => tensor ? curveAt(tensor, place, one.known, steps) : null;
    return { value: at(one.curve), low: at(one.low), high: at(one.high) };
  }

  // Influence of all pairs at the chosen step, row by row; NaN where there are none.
  function plane() {
    if (cache.estimator === state.estimator && cache.at === state.at) return cache;
    const one = estimators[state.estimator];
    const k = one.known.indexOf(state.at);
    cache.plane = k < 0 ? one.room.fill(NaN)
      : planeAt(one.curve, k, one.known.length, one.room);
    cache.uncertain = null;
    if (k >= 0 && one.band === "two standard errors") {
      const [low, high] = [one.low, one.high].map((tensor) =>
        planeAt(tensor, k, one.known.length, new Float32Array(tensor.size)));
      cache.uncertain = Uint8Array.from(low, (v, p) => v < 0 && high[p] > 0 ? 1 : 0);
    }
    [cache.estimator, cache.at, cache.of] = [state.estimator, state.at, {}];
    return cache;
  }

  const valueAt = (q, i) =>
    plane().plane[placeOf(estimators[state.estimator].symmetric, trains, q, i)];
  const different = (q, i) => data.query[q] !== data.train[i];

  function scaleNow(view) {
    if (state.scale === "run") return estimators[state.estimator].typical || 1;
    let top = 0;
    for (const q of view.rows)
      for (const i of view.columns)
        if (different(q, i)) top = Math.max(top, Math.abs(valueAt(q, i)) || 0);
    return top || 1;
  }

  // A row of numbers of every frame, linear in time between frames.
  function framed(table, width, t) {
    const { clock } = run;
    let k = 1;
    while (k < clock.length - 1 && clock[k] < t) k++;
    const share = clock.length < 2 ? 0
      : within((t - clock[k - 1]) / (clock[k] - clock[k - 1]) * 1e6, 1e6 + 1) / 1e6;
    const [a, b] = [(k - 1) * width, Math.min(k, clock.length - 1) * width];
    return Float64Array.from({ length: width }, (_, j) =>
      table[a + j] + share * (table[b + j] - table[a + j]));
  }

  const column = (table, width, j) => run.clock.map((_, k) => table[k * width + j]);

  // ---- which items are shown ----
  let inside = null, chosen = null;

  function leaves(branch) {
    const count = trains, joins = data.tree.joins;
    const open = [branch], found = new Set();
    while (open.length) {
      const b = open.pop();
      if (b < count) found.add(b);
      else open.push(...joins[b - count]);
    }
    return found;
  }

  function choose(branch) {
    if (branch === chosen) return;
    chosen = branch;
    const same = queries === trains && data.query.every((name, k) => name === data.train[k]);
    let columns = [...data.train.keys()], rows = same ? columns : [...data.query.keys()];
    if (branch >= 0) {
      const kept = leaves(branch);
      columns = columns.filter((i) => kept.has(i));
      const names = new Set(columns.map((i) => data.train[i]));
      const own = rows.filter((q) => names.has(data.query[q]));
      rows = same ? columns : own.length ? own : rows;
    }
    inside = { rows, columns };
  }

  // ---- what follows the state ----
  function tree() {
    if (!data.tree || inside.columns.length < 3) return null;
    const heights = framed(run.heights, trains - 1, time[state.at]);
    return { joins: data.tree.joins, heights, tallest: run.tallest };
  }

  function matrix() {
    const { rows, columns } = inside;
    const scale = scaleNow(inside);
    const { plane: values, uncertain, of } = plane();
    const { symmetric } = estimators[state.estimator];
    onMatrix = tableViews.matrix(get("matrix"), { rows, columns, queries: data.query,
      trains: data.train, plane: values, of, symmetric, uncertain, scale, tree: tree(),
      chosen: pair(), look });
    get("low").textContent = `helps ${digits(-scale)}`;
    get("high").textContent = `${digits(scale)} harms`;
  }

  function places() {
    const { components: width, places: table } = run.picture;
    const axesShown = run.axes[state.axes];
    const q = state.query, i = state.train;
    const scale = scaleNow(inside);
    const shades = data.items.map((name) => {
      const own = state.direction === "of" ? [queryOf.get(name), i] : [q, trainOf.get(name)];
      return look.shade(own.some((k) => k === undefined) ? NaN : valueAt(...own), scale);
    });
    const items = data.items.length;
    const now = framed(table, items * width, time[state.at]);
    const at = data.items.map((_, k) => axesShown.map((c) => now[k * width + c]));
    const kept = state.branch >= 0
      ? inside.columns.map((k) => itemOf.get(data.train[k])) : [...data.items.keys()];
    const chosen = [...new Set([itemOf.get(data.train[i]), itemOf.get(data.query[q])])]
      .filter((k) => k !== undefined);
    const frames = run.clock.filter((t) => t < time[state.at]).length;
    const paths = (kept.length <= MOST_PATHS ? kept : chosen.filter((k) => kept.includes(k)))
      .map((k) => [...Array.from({ length: frames }, (_, f) => axesShown.map((c) =>
        table[(f * items + k) * width + c])), at[k]]);
    const share = (c) => `component ${c + 1} (${Math.round(100 * data.representation.explained[c])}` +
      " % of variance)";
    onPlaces = tableViews.places(get("places"), { look, at, paths, shades, shown: kept,
      names: data.items, chosen, ends: axesShown.map((c) => run.reach[c]),
      axes: axesShown.map(share) });
    const whose = state.direction === "of"
      ? `what ${data.train[i]} does to each item` : `what each item does to ${data.query[q]}`;
    get("places-note").textContent = `Colour: ${whose}, as in a. Lines: where items came from.`;
    get("places").setAttribute("aria-label", `Hidden representations of ${kept.length} items ` +
      `at step ${data.steps[state.at]}; colour is ${whose}`);
  }

  function named(q, i) {
    const one = estimators[state.estimator];
    const found = valuesOf(one, q, i);
    const t = time;
    const own = Math.max(0, ...found.value.filter(Number.isFinite).map(Math.abs));
    const floor = Math.max(data.fractions.curve * own, data.fractions.overall * one.largest);
    const unsure = one.band === "two standard errors"
      ? Array.from(found.low, (v, k) => v < 0 && found.high[k] > 0) : null;
    const happened = events(data.steps, found.value, floor, unsure);
    const parts = modes && itemOf.has(data.query[q])
      ? modes.parts(itemOf.get(data.query[q]), itemOf.get(data.train[i])) : null;
    const explained = parts ? modes.explain(parts, happened, timeOf)
      : happened.map((event) => ({ ...event, time: timeOf(event.step), modes: [] }));
    return { parts, explained, t };
  }

  // Runs of steps whose chains are not mixed, or short, as intervals of time.
  function unmixed(one) {
    if (!one.verdicts) return [];
    const edge = (k) => k <= 0 ? time[0] : k >= steps ? time[steps - 1] : (time[k - 1] + time[k]) / 2;
    return one.verdicts.flatMap((verdict, k) =>
      verdict === "mixed" || verdict === "" ? [] : [[edge(k), edge(k + 1)]]);
  }

  function curves() {
    const { query: q, train: i } = pair();
    const { parts, explained } = named(q, i);
    const all = estimators.map((one) => ({ name: one.name, unmixed: unmixed(one),
      ...valuesOf(one, q, i) }));
    const now = time[state.at];
    const view = { time, ends: ends(), now, log: logarithmic(),
      timeLabel: timeName.replace(")", logarithmic() ? ", log scale)" : ")") };
    tablePanels.curve(get("curve"), { ...view, curves: all, events: explained,
      chosen: estimators[state.estimator].name });
    tablePanels.key(get("curve-key"), estimators.map((one, e) => [tablePanels.colour(e),
      one.title + (one.band ? `, band: ${one.band}` : "") +
      (unmixed(one).length ? `; grey: ${[...new Set(one.verdicts)].filter((verdict) =>
        verdict !== "mixed" && verdict !== "").join(" or ")}` : "")]));
    tablePanels.list(get("events"), explained, "No event: the curve stays within the floor, or " +
      "has neither an inner extremum nor a flip.");
    get("curve-caption").textContent =
      `Influence of ${data.train[i]} on the loss of ${data.query[q]}`;
    const value = valueAt(q, i);
    get("curve").setAttribute("aria-label", `Influence of ${data.train[i]} on ${data.query[q]} ` +
      `over training; ${digits(value)} at step ${data.steps[state.at]}. ` +
      explained.map(tablePanels.sentence).join("; "));
    const shown = parts ? carriers(q, i, parts, view) : [];
    if (run.strength) tablePanels.strength(get("strength"), { ...view, times: run.clock,
      modes: run.strength, goals: run.goals, shown });
    losses(q, i, view);
  }

  function carriers(q, i, parts, view) {
    const size = parts.map((part) => part.reduce((s, v) => Math.max(s, Math.abs(v)), 0));
    const order = [...size.keys()].sort((a, b) => size[b] - size[a]);
    const shown = order.slice(0, PARTS).filter((a) => size[a] > .02 * size[order[0]])
      .sort((a, b) => a - b);
    const others = order.filter((a) => !shown.includes(a));
    const rest = others.length
      ? modes.times.map((_, k) => others.reduce((s, a) => s + parts[a][k], 0)) : null;
    const [query, train] = [itemOf.get(data.query[q]), itemOf.get(data.train[i])];
    tablePanels.parts(get("parts"), get("parts-key"), { ...view, found: parts, times: modes.times,
      total: modes.total(parts), shown, rest, others: others.length, words: (a) => {
        const { items, features, equal } = modes.words(a, train, query);
        return `mode ${a + 1}: ${items}; features: ${features}${equal ? `; ${equal}` : ""}`;
      } });
    return shown;
  }

  function losses(q, i, view) {
    const width = data.loss_names.length;
    const place = (name) => data.loss_names.indexOf(name);
    const [query, train] = [place(data.query[q]), place(data.train[i])];
    const same = query === train || train < 0;
    tablePanels.loss(get("loss"), get("loss-key"), { ...view, times: run.clock, mean: run.mean,
      query: column(run.loss, width, query), train: same ? null : column(run.loss, width, train),
      names: [data.query[q], data.train[i]] });
  }

  function lists() {
    const { query: q, train: i } = state;
    const of = state.direction === "of";
    const count = of ? queries : trains;
    const value = (k) => of ? valueAt(k, i) : valueAt(q, k);
    const counted = (k) => (of ? different(k, i) : different(q, k)) ? value(k) : NaN;
    const names = of ? data.query : data.train;
    for (const [id, sign] of [["helpers", -1], ["harmers", 1]])
      get(id).replaceChildren(...common.strongest(count, sign, counted, LISTED).map((k) =>
        common.listed(k, value(k), element("span", "name", names[k]),
          { current: k === (of ? q : i), title: names[k] })));
    get("helpers-title").textContent = of ? `${data.train[i]} helps` : `Help ${data.query[q]}`;
    get("harmers-title").textContent = of ? `${data.train[i]} harms` : `Harm ${data.query[q]}`;
  }

  function describe() {
    const { query: q, train: i } = pair();
    const one = estimators[state.estimator];
    const value = valueAt(q, i);
    const k = one.low ? valuesOf(one, q, i) : null;
    const bounds = k && Number.isFinite(k.low[state.at])
      ? ` (${digits(k.low[state.at])} to ${digits(k.high[state.at])}, ${one.band})` : "";
    const verdict = one.verdicts && one.verdicts[state.at];
    const name = (text) => element("code", "", text);
    get("chosen").replaceChildren(name(data.train[i]),
      value < 0 ? " helps " : value > 0 ? " harms " : " and ", name(data.query[q]),
      `: ${digits(value)}${bounds} at step ${data.steps[state.at]}, by ${one.title}` +
      (verdict && verdict !== "mixed" ? `; chains: ${verdict}` : ""));
  }

  function controls() {
    const t = time[state.at];
    get("slider").value = 1000 * shareAt(t);
    const clock = data.flow_time ? `, flow time ${t.toPrecision(3)}` : "";
    get("step").textContent = `step ${data.steps[state.at]}${clock}`;
    get("slider").setAttribute("aria-valuetext", get("step").textContent);
    for (const id of ["estimator", "branch", "scale", "direction", "axes", "axis"])
      get(id).value = String(state[id]);
  }

  function link() {
    const words = { t: data.steps[state.at], train: state.train, query: state.query,
      estimator: estimators[state.estimator].name, branch: state.branch, scale: state.scale,
      direction: state.direction, axes: state.axes, axis: state.axis };
    return "#" + new URLSearchParams(words).toString();
  }

  function restore() {
    const words = new URLSearchParams(location.hash.slice(1));
    const whole = (name, limit, otherwise) => {
      const k = Number.parseInt(words.get(name), 10);
      return k >= 0 && k < limit ? k : otherwise;
    };
    const step = Number.parseInt(words.get("t"), 10);
    if (step >= 0 && step <= data.steps[steps - 1]) state.at = nearestTo(timeOf(step));
    state.query = whole("query", queries, state.query);
    state.train = whole("train", trains, state.train);
    const named = estimators.findIndex((one) => one.name === words.get("estimator"));
    if (named >= 0) state.estimator = named;
    state.branch = data.tree ? whole("branch", 2 * trains - 1, -1) : -1;
    state.axes = run.picture ? whole("axes", run.axes.length, 0) : 0;
    state.scale = words.get("scale") === "step" ? "step" : "run";
    if (["log", "linear"].includes(words.get("axis"))) state.axis = words.get("axis");
    state.direction = words.get("direction") === "on" ? "on" : "of";
  }

  function show() {
    choose(state.branch);
    matrix();
    if (run.picture) places();
    curves();
    lists();
    describe();
    controls();
  }

  function change(words) {
    Object.assign(state, words);
    hover = null;
    show();
    history.replaceState(null, "", link());
    return state;
  }

  // ---- what a person does ----
  function stop() {
    if (playing !== null) cancelAnimationFrame(playing);
    playing = null;
    get("play").textContent = "Play";
    get("play").setAttribute("aria-pressed", "false");
  }

  function play() {
    if (playing !== null) {
      stop();
      return;
    }
    const from = state.at === steps - 1 ? 0 : shareAt(time[state.at]);
    let began = null;
    get("play").textContent = "Pause";
    get("play").setAttribute("aria-pressed", "true");
    const tick = (now) => {
      if (began === null) began = now;
      const share = from + (now - began) / (1000 * SECONDS);
      const at = share >= 1 ? steps - 1 : nearestTo(timeAt(share));
      if (at !== state.at) change({ at });
      if (at === steps - 1) stop();
      else playing = requestAnimationFrame(tick);
    };
    playing = requestAnimationFrame(tick);
  }

  function beside(list, own, by) {
    const k = list.indexOf(own);
    return list[k < 0 ? 0 : within(k + by, list.length)];
  }

  function key(event) {
    if (common.taken(event)) return;
    const slides = event.target === get("slider");
    const moves = {
      ",": () => ({ at: within(state.at - 1, steps) }),
      ".": () => ({ at: within(state.at + 1, steps) }),
      Home: () => ({ at: 0 }),
      End: () => ({ at: steps - 1 }),
      ArrowLeft: () => ({ train: beside(inside.columns, state.train, -1) }),
      ArrowRight: () => ({ train: beside(inside.columns, state.train, 1) }),
      ArrowUp: () => ({ query: beside(inside.rows, state.query, -1) }),
      ArrowDown: () => ({ query: beside(inside.rows, state.query, 1) }),
    };
    moves.PageUp = moves[","];
    moves.PageDown = moves["."];
    const sliding = { ArrowLeft: ",", ArrowDown: ",", ArrowRight: ".", ArrowUp: "." };
    if (event.key === " " && !event.target.closest("button")) {
      event.preventDefault();
      play();
      return;
    }
    const move = moves[slides && sliding[event.key] || event.key];
    if (move === undefined) return;
    event.preventDefault();
    stop();
    change(move());
  }

  // The next train item (or query) whose name has a text, after the chosen one and round the end.
  function search(text) {
    const wanted = text.toLowerCase();
    const of = state.direction === "of";
    const names = of ? data.train : data.query;
    const own = of ? state.train : state.query;
    for (let k = 1; k <= names.length && wanted !== ""; k++) {
      const j = (own + k) % names.length;
      if (!names[j].toLowerCase().includes(wanted)) continue;
      const shown = (of ? inside.columns : inside.rows).includes(j);
      change({ [of ? "train" : "query"]: j, ...(shown ? {} : { branch: -1 }) });
      return;
    }
  }

  function onCanvas(canvas, act) {
    return (event) => {
      const box = canvas.getBoundingClientRect();
      act(event.clientX - box.left, event.clientY - box.top, event);
    };
  }

  function pointing() {
    const canvas = get("matrix");
    canvas.addEventListener("click", onCanvas(canvas, (x, y) => {
      const cell = onMatrix.cell(x, y), branch = onMatrix.branch(x, y);
      if (cell) change(cell);
      else if (branch !== null) change({ branch: branch === 2 * trains - 2 ? -1 : branch });
    }));
    const over = (cell) => {
      if (!cell === !hover && (!cell || cell.query === hover.query && cell.train === hover.train))
        return;
      hover = cell;
      curves();
      describe();
    };
    canvas.addEventListener("mousemove", onCanvas(canvas, (x, y) => over(onMatrix.cell(x, y))));
    canvas.addEventListener("mouseleave", () => over(null));
    const picture = get("places");
    picture.addEventListener("click", onCanvas(picture, (x, y) => {
      const item = onPlaces.item(x, y);
      if (item === null) return;
      const other = state.direction === "of" ? ["query", queryOf] : ["train", trainOf];
      const place = other[1].get(data.items[item]);
      if (place !== undefined) change({ [other[0]]: place });
    }));
    picture.addEventListener("mousemove", onCanvas(picture, (x, y) => {
      const item = onPlaces.item(x, y);
      picture.title = item === null ? "" : data.items[item];
    }));
  }

  function controlling() {
    get("slider").addEventListener("input", () => {
      stop();
      change({ at: nearestTo(timeAt(get("slider").value / 1000)) });
    });
    for (const id of ["scale", "direction", "axis"])
      get(id).addEventListener("change", () => change({ [id]: get(id).value }));
    for (const id of ["estimator", "branch", "axes"])
      get(id).addEventListener("change", () => change({ [id]: Number(get(id).value) }));
    get("play").addEventListener("click", play);
    get("search").addEventListener("keydown", (event) => {
      if (event.key === "Enter") search(get("search").value);
    });
    for (const id of ["helpers", "harmers"])
      get(id).addEventListener("click", (event) => {
        const button = event.target.closest("button");
        if (button) change({ [state.direction === "of" ? "query" : "train"]:
          Number(button.dataset.item) });
      });
    const toEvent = (event) => {
      const made = event.target.closest("[data-event]");
      if (!made) return;
      const { explained } = named(state.query, state.train);
      stop();
      change({ at: nearestTo(explained[Number(made.dataset.event)].time) });
    };
    get("events").addEventListener("click", toEvent);
    get("curve").addEventListener("click", toEvent);
    document.addEventListener("keydown", key);
    window.addEventListener("hashchange", () => { restore(); show(); });
    let waiting = null;
    window.addEventListener("resize", () => {
      clearTimeout(waiting);
      waiting = setTimeout(show, 80);
    });
  }

  // ---- the beginning ----
  function branches() {
    get("branch").append(option(-1, `all ${trains}`));
    if (!data.tree || trains < 4) {
      get("branches").hidden = true;
      return;
    }
    for (let j = trains - 3; j >= Math.max(0, trains - 2 - MOST_BRANCHES); j--) {
      const kept = [...leaves(trains + j)].sort((a, b) => a - b);
      const more = kept.length > 3 ? ", …" : "";
      get("branch").append(option(trains + j, `${kept.length}: ` +
        kept.slice(0, 3).map((i) => data.train[i]).join(", ") + more));
    }
  }

  function beside_influence() {
    const frames = data.frames;
    const clock = frames.map((k) => time[k]);
    const loss = floats(data.loss), width = data.loss_names.length;
    const mean = clock.map((_, k) => {
      let total = 0;
      for (let j = 0; j < width; j++) total += loss[k * width + j];
      return total / width;
    });
    run = { clock, loss, mean };
    if (data.tree) {
      run.heights = floats(data.tree.heights);
      run.tallest = run.heights.reduce((a, b) => Math.max(a, b), 0);
    }
    if (data.strength) {
      const strength = floats(data.strength), count = data.goals.length;
      run.goals = data.goals;
      run.strength = data.goals.map((_, a) => clock.map((_, k) => strength[k * count + a]));
    }
    if (!data.representation) return;
    const { components } = data.representation, table = floats(data.representation.places);
    run.picture = { components, places: table };
    run.axes = components === 1 ? [[0, 0]] : components === 2 ? [[0, 1]] : [[0, 1], [0, 2], [1, 2]];
    run.reach = Array.from({ length: components }, (_, c) => {
      let low = Infinity, high = -Infinity;
      for (let k = c; k < table.length; k += components)
        [low, high] = [Math.min(low, table[k]), Math.max(high, table[k])];
      return [low, high];
    });
    get("axes").append(...run.axes.map((pair, k) => option(k, pair.map((c) => c + 1).join(" and "))));
  }

  function pairAt(symmetric, p) {
    if (!symmetric) return [Math.floor(p / trains), p % trains];
    let q = 0;
    while (placeOf(true, trains, q, trains - 1) < p) q++;
    return [q, p - placeOf(true, trains, q, q) + q];
  }

  // The step and the pair of different items at which most happens.
  function first() {
    state.estimator = Math.max(0, data.estimators.findIndex((one) => one.name === data.first));
    const one = estimators[state.estimator];
    let best = -1;
    const step = Math.max(1, Math.floor(one.known.length / 40));
    for (let k = 0; k < one.known.length; k += step) {
      state.at = one.known[k];
      const values = plane().plane;
      for (let p = 0; p < values.length; p++) {
        if (!(Math.abs(values[p]) > best)) continue;
        const [q, i] = pairAt(one.symmetric, p);
        if (!different(q, i)) continue;
        best = Math.abs(values[p]);
        Object.assign(state, { query: q, train: i });
        first.at = state.at;
      }
    }
    if (first.at !== undefined) state.at = first.at;
  }

  function begin() {
    document.title = `${data.title} (dlnflow explorer)`;
    get("title").textContent = data.title;
    get("estimator").append(...data.estimators.map((one, e) => option(e, one.title)));
    get("estimators").hidden = data.estimators.length < 2;
    get("unit").textContent = "d loss(query) / d weight(train), in loss per unit of item weight";
    get("run").replaceChildren(...data.about.map((line) => element("li", "", line)));
    const { largest_error: error, error_over_floor: share } = data.error;
    get("accuracy").textContent = `The page has ${common.megabytes()} MB. It keeps curves as ` +
      `rounded integers, which changes a value by at most ${error.toPrecision(2)}, ` +
      `${(100 * share).toPrecision(2)} % of the floor of events.`;
    get("panel-parts").hidden = modes === null;
    get("panel-strength").hidden = !data.strength;
    get("panel-places").hidden = !data.representation;
    get("tree-note").hidden = !data.tree || trains < 3;
  }

  async function start() {
    common.theme(() => {
      look = tableViews.colours();
      if (document.body.dataset.ready) show();
    });
    for (const one of data.estimators) {
      const curve = await tableNumbers.tensor(one);
      const [low, high] = one.bands ? [await tableNumbers.tensor(one.bands.low),
        await tableNumbers.tensor(one.bands.high)] : [null, null];
      estimators.push({ ...one, values: null, curve, low, high,
        room: new Float32Array(curve.size) });
      one.values = one.bands = null;
    }
    modes = await readsModes(data);
    beside_influence();
    branches();
    begin();
    first();
    if (location.hash.length > 1) restore();
    choose(state.branch);
    controlling();
    pointing();
    change({});
    window.explorer = { state, change, link, named, valueAt, valuesOf: (q, i) =>
      valuesOf(estimators[state.estimator], q, i), modes, where: () => ({ matrix: onMatrix,
      places: onPlaces }), shown: () => inside, tree };
    document.body.dataset.ready = "yes";
  }

  common.run(start);
})();
