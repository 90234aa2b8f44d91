// Curves and matrices of dlnflow/explore/low_rank_curves.py, and the events of
// dlnflow/analysis/extrema.py, in the browser.
const tableNumbers = (function () {
  async function tensor(packed) {
    const values = await common.integers(packed.values, 4);
    return { rank: packed.rank, basis: common.floats(packed.basis), values,
      size: packed.rank ? values.length / packed.rank : 0 };
  }

  // Curve of one place: sum over functions of time, at `times` places among `length`.
  function curveAt(one, place, times, length) {
    const found = new Float64Array(length).fill(NaN);
    const count = times.length;
    for (let k = 0; k < count; k++) {
      let total = 0;
      for (let r = 0; r < one.rank; r++)
        total += one.basis[r * count + k] * one.values[r * one.size + place];
      found[times[k]] = total;
    }
    return found;
  }

  // All places at one time.
  function planeAt(one, k, count, out) {
    out.fill(0);
    for (let r = 0; r < one.rank; r++) {
      const weight = one.basis[r * count + k];
      if (weight === 0) continue;
      const part = one.values.subarray(r * one.size, (r + 1) * one.size);
      for (let p = 0; p < part.length; p++) out[p] += weight * part[p];
    }
    return out;
  }

  // Where a pair stands: of a symmetric matrix only pairs (q, i) with i >= q are kept.
  function placeOf(symmetric, trains, q, i) {
    if (!symmetric) return q * trains + i;
    return q <= i ? q * trains - q * (q + 1) / 2 + i : i * trains - i * (i + 1) / 2 + q;
  }

  // A parabola through three samples: the time and height of its vertex.
  function vertex(t, v, k) {
    const before = t[k] - t[k - 1], after = t[k + 1] - t[k];
    const rise = (v[k] - v[k - 1]) / before, fall = (v[k + 1] - v[k]) / after;
    const slope = (rise * after + fall * before) / (before + after);
    const curvature = (fall - rise) / (before + after);
    const shift = curvature === 0 ? 0 : -slope / (2 * curvature);
    return [t[k] + shift, v[k] + slope * shift / 2];
  }

  function prominence(v, k) {
    const lowest = (from, by) => {
      let least = v[k];
      for (let j = from; j >= 0 && j < v.length && v[j] <= v[k]; j += by)
        least = Math.min(least, v[j]);
      return least;
    };
    return v[k] - Math.max(lowest(k - 1, -1), lowest(k + 1, 1));
  }

  function maxima(v, floor) {
    const found = [];
    for (let k = 1; k < v.length - 1; k++) {
      if (!(v[k - 1] < v[k])) continue;
      let last = k;
      while (last < v.length - 1 && v[last + 1] === v[k]) last++;
      if (last < v.length - 1 && v[last + 1] < v[k]) {
        const middle = Math.floor((k + last) / 2);
        if (Math.abs(v[k]) >= floor && prominence(v, middle) >= floor) found.push(middle);
      }
      k = last;
    }
    return found;
  }

  // Places before and after every change of sign beyond the floor, and the sign afterwards.
  function flips(v, floor) {
    const found = [];
    let held = 0, at = 0;
    for (let k = 0; k < v.length; k++) {
      const sign = Math.abs(v[k]) > floor ? Math.sign(v[k]) : 0;
      if (sign === 0) continue;
      if (held * sign < 0) found.push([at, k, sign]);
      held = sign;
      at = k;
    }
    return found;
  }

  function crossing(t, v, before, after) {
    let changes = 0, left = before, right = after, last = before;
    for (let k = before + 1; k <= after; k++) {
      if (v[k] === 0) continue;
      if (Math.sign(v[k]) !== Math.sign(v[last])) {
        changes++;
        [left, right] = [last, k];
      }
      last = k;
    }
    if (changes !== 1) [left, right] = [before, after];
    return t[left] + v[left] / (v[left] - v[right]) * (t[right] - t[left]);
  }

  // Events of one curve above its floor, in order of time; `unsure` where an interval holds 0.
  function events(t, values, floor, unsure = null) {
    const known = Array.from(values.keys()).filter((k) => Number.isFinite(values[k]));
    const time = known.map((k) => t[k]), v = known.map((k) => values[k]);
    if (!(Math.max(0, ...v.map(Math.abs)) > floor)) return [];
    const found = [];
    for (const side of [1, -1]) {
      const turned = v.map((x) => side * x);
      for (const k of maxima(turned, floor)) {
        const [step, value] = vertex(time, v, k);
        found.push({ kind: side > 0 ? "peak" : "trough", step, value, sign: Math.sign(value) });
      }
    }
    const sure = unsure ? v.map((x, k) => unsure[known[k]] ? 0 : x) : v;
    for (const [before, after, sign] of flips(sure, floor))
      found.push({ kind: "sign_flip", step: crossing(time, v, before, after), value: 0, sign });
    return found.sort((a, b) => a.step - b.step);
  }

  // Piecewise linear; `at` grows.
  function between(at, values, t) {
    let k = 1;
    while (k < at.length - 1 && at[k] < t) k++;
    if (at.length < 2) return values[0];
    const share = Math.max(0, Math.min(1, (t - at[k - 1]) / (at[k] - at[k - 1])));
    return values[k - 1] + share * (values[k] - values[k - 1]);
  }

  // Through the three samples nearest to t, by a parabola.
  function smooth(at, values, t) {
    if (at.length < 3) return between(at, values, t);
    let k = 1;
    while (k < at.length - 2 && Math.abs(at[k + 1] - t) < Math.abs(at[k] - t)) k++;
    let total = 0;
    for (let i = k - 1; i <= k + 1; i++) {
      let weight = values[i];
      for (let j = k - 1; j <= k + 1; j++)
        if (j !== i) weight *= (t - at[j]) / (at[i] - at[j]);
      total += weight;
    }
    return total;
  }

  return { smooth, tensor, curveAt, planeAt, placeOf, events, between };
})();
