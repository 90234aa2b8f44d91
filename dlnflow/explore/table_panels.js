// Panels over training time: the curve of a pair, what carries it, modes, and losses.
const tablePanels = (function () {
  const { draw, element } = common;
  const KINDS = { peak: "▲", trough: "▼", sign_flip: "●" };
  const VERBS = {
    "peak 1": "harms it most", "peak -1": "helps it least", "trough -1": "helps it most",
    "trough 1": "harms it least", "sign_flip 1": "begins to harm it",
    "sign_flip -1": "begins to help it",
  };
  const colour = (k) => `c${k % 6} d${Math.floor(k / 6) % 4}`;

  function sized(svg, height) {
    const width = Math.max(240, svg.parentElement.clientWidth);
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    return [52, width - 12, 8, height];
  }

  function key(list, entries) {
    list.replaceChildren(...entries.map(([kind, text]) => {
      const line = element("li");
      const sample = draw("svg", { viewBox: "0 0 26 10", "aria-hidden": "true" });
      sample.append(draw("path", { class: `line ${kind}`, d: "M0,5H26" }));
      const words = element("span", "words", text);
      words.title = text;
      line.append(sample, words);
      return line;
    }));
  }

  const points = (time, values) => Array.from(time, (t, k) => [t, values[k]]);
  const span = (lists) => {
    let low = Infinity, high = -Infinity;
    for (const list of lists)
      for (const v of list)
        if (Number.isFinite(v)) [low, high] = [Math.min(low, v), Math.max(high, v)];
    return low > high ? [0, 1] : [low, high];
  };

  function frame(svg, view, { height, values, label, zero, labelled = false }) {
    const box = sized(svg, height);
    box[3] = height - (labelled ? 36 : 20);
    return axes.panel(svg, { box, time: view.ends, values, label, zero, log: view.log,
      timeLabel: labelled ? view.timeLabel : " " });
  }

  // Curves of all estimators, bands, and the events of the chosen one.
  function curve(svg, view) {
    const { time, curves, events, chosen } = view;
    const lists = curves.flatMap((one) => [one.value, ...(one.low ? [one.low, one.high] : [])]);
    const plot = frame(svg, view, { height: 210, values: span(lists), zero: true,
      labelled: true, label: "influence (down: helps)" });
    for (const one of curves)
      for (const [from, to] of one.unmixed)
        {
        const left = Math.max(52, plot.x(from) || 52);
        plot.add("rect", { class: "unmixed", x: left, y: 8,
          width: Math.max(1, plot.x(to) - left), height: 166 });
      }
    curves.forEach((one, e) => {
      if (one.low) plot.band(Array.from(time, (t, k) => [t, one.low[k], one.high[k]]), colour(e));
    });
    curves.forEach((one, e) => plot.line(points(time, one.value),
      `${colour(e)} ${one.name === chosen ? "" : "back"}`));
    plot.now(view.now);
    let last = -Infinity;
    events.forEach((event, k) => {
      const [x, y] = [plot.x(event.time), plot.y(event.value)];
      const d = event.kind === "peak" ? `M${x},${y - 5}l5,8h-10Z`
        : event.kind === "trough" ? `M${x},${y + 5}l5,-8h-10Z`
          : `M${x - 4},${y}a4,4 0 1,0 8,0a4,4 0 1,0 -8,0Z`;
      const made = plot.add("path", { class: "mark", d, "data-event": k });
      made.append(draw("title", {}, sentence(event)));
      const wide = event.kind === "sign_flip" ? 44 : 26;
      if (event.modes.length === 0 || x - wide < last) return;
      last = x + wide;
      const name = event.kind === "sign_flip"
        ? `mode ${event.modes[0].mode + 1} → ${event.modes[1].mode + 1}`
        : `mode ${event.modes[0].mode + 1}`;
      plot.add("text", { class: "name", ...beside(event, x, y, plot.x(view.ends[1])) }, name);
    });
    return plot;
  }

  // Where the name of an event stands: above a peak, below a trough, and beside a change of sign on
  // the side that the curve does not take.
  function beside(event, x, y, end) {
    const late = x > end - 60;
    if (event.kind === "sign_flip") {
      const left = event.sign > 0 ? x > 130 : late;
      const above = left === event.sign > 0;
      return { x: left ? x - 8 : x + 8, y: above ? y - 6 : y + 14,
        "text-anchor": left ? "end" : "start" };
    }
    if (event.kind === "trough" && y > 152)
      return { x: late ? x - 9 : x + 9, y: y + 5, "text-anchor": late ? "end" : "start" };
    return { x, y: Math.max(18, event.kind === "peak" ? y - 9 : y + 18),
      "text-anchor": late ? "end" : x < 90 ? "start" : "middle" };
  }

  const verb = (event) => VERBS[`${event.kind} ${event.sign > 0 ? 1 : -1}`];

  function carried(event) {
    if (event.modes.length === 0) return "";
    if (event.kind === "sign_flip")
      return `: mode ${event.modes[0].mode + 1} gives way to mode ${event.modes[1].mode + 1}`;
    return ": " + event.modes.map(({ mode, share }) =>
      `mode ${mode + 1} (${Math.round(100 * share)} %)`).join(", ");
  }

  const sentence = (event) => `${verb(event)} at step ${event.step.toFixed(0)}${carried(event)}`;

  function list(where, events, none) {
    where.replaceChildren(...(events.length ? events.map((event, k) => {
      const line = element("li");
      const button = element("button");
      button.type = "button";
      button.dataset.event = k;
      button.append(element("span", "sign", KINDS[event.kind]), element("span", "", sentence(event)));
      line.append(button);
      return line;
    }) : [element("li", "note", none)]));
  }

  // The parts of the modes that matter most, the sum of the others, and the curve itself.
  function parts(svg, where, view) {
    const { found, times, total, shown, rest } = view;
    const lists = [total, ...shown.map((a) => found[a]), ...(rest ? [rest] : [])];
    const plot = frame(svg, view, { height: 158, values: span(lists), zero: true,
      label: "part of influence" });
    if (rest) plot.line(points(times, rest), "grey");
    shown.forEach((a, k) => plot.line(points(times, found[a]), colour(k)));
    plot.line(points(times, total), "back d1");
    plot.now(view.now);
    key(where, [...shown.map((a, k) => [colour(k), view.words(a)]),
      ...(rest ? [["grey", `the other ${view.others} modes together`]] : []),
      ["back d1", "their sum, the closed form"]]);
  }

  function strength(svg, view) {
    const { times, modes, goals } = view;
    const plot = frame(svg, view, { height: 136, values: span([...modes, goals]), zero: true,
      label: "u′ W v" });
    goals.forEach((s) => plot.line([[view.ends[0], s], [view.ends[1], s]], "goal grey"));
    modes.forEach((values, a) => {
      const place = view.shown.indexOf(a);
      const made = plot.line(points(times, values), place < 0 ? "grey back" : colour(place));
      made.append(draw("title", {}, `mode ${a + 1}: strength ${goals[a].toPrecision(3)}`));
    });
    let last = -Infinity;
    // Of many modes only those of the curve have names.
    modes.forEach((_, a) => {
      if (modes.length > 8 && !view.shown.includes(a)) return;
      const y = plot.y(goals[a]);
      if (Math.abs(y - last) < 11) return;
      last = y;
      plot.add("text", { class: "name", x: plot.x(view.ends[1]) - 2, y: y - 3,
        "text-anchor": "end" }, `mode ${a + 1}`);
    });
    plot.now(view.now);
  }

  function loss(svg, where, view) {
    const { times, mean, query, train, names } = view;
    const lists = [mean, query, ...(train ? [train] : [])];
    const plot = frame(svg, view, { height: 140, values: span(lists), zero: true, label: "loss",
      labelled: true });
    plot.line(points(times, query), "c0");
    if (train) plot.line(points(times, train), "c1 d1");
    plot.line(points(times, mean), "");
    plot.now(view.now);
    key(where, [["", "mean of all items"], ["c0", names[0]],
      ...(train ? [["c1 d1", names[1]]] : [])]);
  }

  return { curve, parts, strength, loss, list, key, sentence, colour };
})();
