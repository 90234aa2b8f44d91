// Which mode carries what: dlnflow/analysis/explain_events.py and distinctions.py in the browser.
async function readsModes(data) {
  const modes = data.modes;
  if (!modes) return null;
  const ITEM_SHARE = .3, FEATURE_SHARE = .6, NAMES = 3, ROUNDING = 1e-9, SMALLEST = .1;
  const count = modes.sizes.length;
  const items = data.items.length;
  const width = modes.sizes.reduce((a, b) => a + b, 0);
  const x = common.floats(modes.items), u = common.floats(modes.features);
  const tensor = await tableNumbers.tensor(modes.coefficients);
  const starts = modes.sizes.map((_, a) => modes.sizes.slice(0, a).reduce((s, k) => s + k, 0));
  const clock = data.flow_time;
  const times = modes.times.map((k) => clock[k]);
  const steps = modes.times.map((k) => data.steps[k]);

  // Parts C_a of the closed form of one pair at modes.times; rows are modes.
  function parts(query, train) {
    const shared = new Float64Array(count);
    for (let a = 0; a < count; a++)
      for (let c = starts[a]; c < starts[a] + modes.sizes[a]; c++)
        shared[a] += x[query * width + c] * x[train * width + c];
    const rest = (query === train ? 1 : 0) - shared.reduce((s, v) => s + v, 0);
    const found = Array.from({ length: count }, () => new Float64Array(times.length));
    for (let r = 0; r < tensor.rank; r++) {
      const values = tensor.values.subarray(r * tensor.size, (r + 1) * tensor.size);
      const inner = new Float64Array(count);
      let place = 0;
      for (let a = 0; a < count; a++)
        for (let b = a; b < count; b++) {
          const value = values[place++];
          inner[a] += value * shared[b];
          if (b !== a) inner[b] += value * shared[a];
        }
      for (let a = 0; a < count; a++) {
        const total = -shared[a] * (inner[a] + values[place + a] * rest) / modes.whitening;
        for (let k = 0; k < times.length; k++)
          found[a][k] += total * tensor.basis[r * times.length + k];
      }
    }
    return found;
  }

  const total = (found) => times.map((_, k) => found.reduce((s, part) => s + part[k], 0));

  // ---- what a mode tells apart, in words ----
  function sides(loads, fraction) {
    const top = loads.reduce((a, v) => Math.max(a, Math.abs(v)), 0);
    const size = loads.map((v) => Math.round(Math.abs(v) / (ROUNDING * top)));
    // Loads are in single precision, which knows equal ones to 1e-6 only.
    const rough = loads.map((v) => Math.round(1e5 * Math.abs(v) / top));
    const order = [...loads.keys()].filter((k) => size[k] >= fraction / ROUNDING * (1 - 1e-5))
      .sort((a, b) => rough[b] - rough[a] || a - b);
    return [1, -1].map((side) => order.filter((k) => side * loads[k] > 0));
  }

  function against(both, names, first = []) {
    return both.map((side) => {
      const inside = new Set(side);
      const ahead = first.filter((k) => inside.has(k));
      const order = [...new Set([...ahead, ...side.slice(0, NAMES)])].slice(0, NAMES);
      const more = side.length > NAMES ? ` and ${side.length - NAMES} more` : "";
      return order.map((k) => names[k]).join(", ") + more;
    }).filter((text) => text).join(" against ");
  }

  function loads(table, rows, mode, direction) {
    const found = new Array(rows).fill(0);
    const size = modes.sizes[mode];
    for (let j = 0, at = starts[mode]; j < rows; j++, at += width)
      for (let c = 0; c < size; c++) found[j] += table[at + c] * direction[c];
    return found;
  }

  // Squared lengths of the parts of all items in a mode.
  function lengths(mode) {
    const found = new Float64Array(items);
    for (let j = 0, at = starts[mode]; j < items; j++, at += width)
      for (let c = 0; c < modes.sizes[mode]; c++) found[j] += x[at + c] ** 2;
    return found;
  }

  const own = (mode, item) =>
    Array.from(x.subarray(item * width + starts[mode], item * width + starts[mode] +
      modes.sizes[mode]));

  function words(mode, train, query) {
    let direction = own(mode, train);
    let along = loads(x, items, mode, direction);
    const size2 = lengths(mode), longest = size2.reduce((a, b) => Math.max(a, b), 0);
    if (along.reduce((a, v) => Math.max(a, Math.abs(v)), 0) <= 1e-6 * longest) {
      direction = own(mode, size2.findIndex((v) => v >= (1 - 1e-5) * longest));
      along = loads(x, items, mode, direction);
    }
    const both = sides(along, ITEM_SHARE);
    const named = both[0].length === items ? "all items"
      : against(both, data.items, [train, query]);
    const features = against(sides(loads(u, modes.feature_names.length, mode, direction),
      FEATURE_SHARE), modes.feature_names);
    const size = modes.sizes[mode];
    return { items: named, features, equal: size > 1 ? `one of ${size} equal modes` : "" };
  }

  // ---- events and the modes that carry them ----
  function leading(found, t) {
    const at = found.map((part) => tableNumbers.smooth(times, part, t));
    const sum = at.reduce((s, v) => s + v, 0);
    const shares = at.map((v) => v / sum);
    const order = [...shares.keys()].sort((a, b) => shares[b] - shares[a] || a - b).slice(0, 2);
    return order.filter((a, k) => k === 0 || shares[a] >= SMALLEST)
      .map((mode) => ({ mode, share: shares[mode] }));
  }

  function pushing(found, t, side) {
    let at = found.map((part) => side * tableNumbers.smooth(times, part, t));
    if (!(Math.max(...at) > 0)) at = at.map(Math.abs);
    const mode = at.indexOf(Math.max(...at));
    return { mode, share: at[mode] / at.reduce((s, v) => s + Math.max(v, 0), 0) };
  }

  const nearest = (one, others) => others.filter((o) => o.kind === one.kind && o.sign === one.sign)
    .reduce((best, o) => best === null || Math.abs(o.time - one.time) < Math.abs(best.time - one.time)
      ? o : best, null);

  // Gives every event the modes of the event of the closed form that is nearest to it, if it is
  // also the nearest to that one.
  function explain(found, happened, timeOf) {
    const closed = total(found);
    const top = Math.max(0, ...closed.map(Math.abs));
    const floor = Math.max(data.fractions.curve * top, data.fractions.overall * modes.largest);
    const own = tableNumbers.events(steps, closed, floor)
      .map((event) => ({ ...event, time: timeOf(event.step) }));
    const mine = happened.map((event) => ({ ...event, time: timeOf(event.step) }));
    return mine.map((event) => {
      const partner = nearest(event, own);
      if (partner === null || nearest(partner, mine) !== event) return { ...event, modes: [] };
      const t = partner.time;
      const named = event.kind === "sign_flip"
        ? [pushing(found, t, -event.sign), pushing(found, t, event.sign)] : leading(found, t);
      return { ...event, modes: named, offset: event.time - partner.time };
    });
  }

  return { parts, total, words, explain, count, times, steps };
}
