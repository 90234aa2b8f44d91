// One panel over training time: frame, ticks, labels, and the paths of curves.
const axes = (function () {
  const { draw } = common;

  // Round numbers between two ends, about `count` of them.
  function ticks(low, high, count) {
    const rough = (high - low) / count;
    if (!(rough > 0)) return [low];
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * ([1, 2, 5, 10].find((k) => k * power >= .75 * rough));
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++)
      found.push(k * step);
    return found;
  }

  function written(value, all) {
    if (value === 0) return "0";
    const largest = Math.max(...all.map(Math.abs));
    const apart = all.length > 1 ? Math.abs(all[1] - all[0]) : largest;
    if (largest >= 1e5 || largest < 1e-3) return value.toExponential(1).replace("-", "−");
    const places = Math.max(0, -Math.floor(Math.log10(apart) + 1e-9));
    return value.toFixed(places).replace("-", "−");
  }

  // Powers of ten, or those with 2 and 5 between them where there are few.
  function decades(low, high) {
    const found = [];
    const span = Math.log10(high / low);
    const within = span < 1.2 ? [1, 2, 5] : span < 2.5 ? [1, 3] : [1];
    for (let k = Math.floor(Math.log10(low)); k <= Math.log10(high); k++)
      for (const m of within)
        if (m * 10 ** k >= low * .999 && m * 10 ** k <= high * 1.001) found.push(m * 10 ** k);
    return found;
  }

  // A frame inside `svg`; `box` is left, right, top, bottom. Returns how to draw in it.
  function panel(svg, { box, time, values, label = "", timeLabel = "", zero = false,
    log = false }) {
    const [left, right, top, bottom] = box;
    const [start, end] = time[0] === time[1] ? [time[0] - 1, time[1] + 1] : time;
    let [low, high] = values;
    if (zero) [low, high] = [Math.min(0, low), Math.max(0, high)];
    const room = (high - low || 1) * .06;
    const clock = log ? (t) => t > 0 ? Math.log(t) : NaN : (t) => t;
    const x = (t) => left + (right - left) * (clock(t) - clock(start)) / (clock(end) - clock(start));
    const y = (v) => bottom - (bottom - top) * (v - low + room) / (high - low + 2 * room);
    svg.append(draw("path", { class: "axis", d: `M${left},${top}V${bottom}H${right}` }));
    const marks = ticks(low, high, (bottom - top) / 34);
    for (const value of marks) {
      svg.append(draw("path", { class: "axis", d: `M${left - 3},${y(value)}h3` }));
      svg.append(draw("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" },
        written(value, marks)));
    }
    const times = log ? decades(start, end) : ticks(start, end, Math.max(2, (right - left) / 62));
    for (const t of times) {
      svg.append(draw("path", { class: "axis", d: `M${x(t)},${bottom}v3` }));
      if (timeLabel) svg.append(draw("text",
        { x: x(t), y: bottom + 15, "text-anchor": "middle" },
        log ? String(Number(t.toPrecision(1))) : written(t, times)));
    }
    if (timeLabel) svg.append(draw("text", { x: (left + right) / 2, y: bottom + 30,
      "text-anchor": "middle" }, timeLabel));
    if (label) svg.append(draw("text", { transform: `translate(11 ${(top + bottom) / 2}) ` +
      "rotate(-90)", "text-anchor": "middle" }, label));
    if (zero) svg.append(draw("path", { class: "zero", d: `M${left},${y(0)}H${right}` }));

    const add = (name, attributes, text) => {
      const made = draw(name, attributes, text);
      svg.append(made);
      return made;
    };
    // Points are [time, value]; a value that is not finite is a gap.
    const path = (points) => {
      let text = "", pen = "M";
      for (const [t, v] of points) {
        const known = Number.isFinite(v) && Number.isFinite(x(t));
        if (known) text += `${pen}${x(t).toFixed(1)},${y(v).toFixed(1)}`;
        pen = known ? "L" : "M";
      }
      return text;
    };
    const line = (points, name) => add("path", { class: `line ${name}`, d: path(points) });
    // Points are [time, low, high].
    const band = (points, name) => {
      const known = points.filter((p) => p.every(Number.isFinite) && Number.isFinite(x(p[0])));
      if (known.length === 0) return null;
      const there = known.map((p) => [p[0], p[1]]), back = known.map((p) => [p[0], p[2]]).reverse();
      const outline = path([...there, ...back]);
      return add("path", { class: `band ${name}`, d: `${outline}Z` });
    };
    const now = (t) => add("path", { class: "now", d: `M${Math.max(left, x(t) || left)},${top}V${bottom}` });
    return { x, y, add, line, band, now };
  }

  return { panel };
})();
