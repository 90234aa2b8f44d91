// The numbers of dlnflow/explore/quantised.py in the browser; `row` is its method `row`.
function readsTraces(count, factor) {
  async function unpack(point) {
    const values = await common.integers(point.values, 2);
    const batches = point.edges.length - 1;
    const squares = new Float64Array(batches * count);
    const scale = new Float64Array(count);
    for (let b = 0; b < batches; b++)
      for (let k = point.edges[b]; k < point.edges[b + 1]; k++)
        for (let j = 0; j < count; j++) {
          const q = values[k * count + j];
          squares[b * count + j] += q * q;
          scale[j] += q * q;
        }
    for (let j = 0; j < count; j++) scale[j] = scale[j] > 0 ? 1 / Math.sqrt(scale[j]) : 0;
    const spread = common.floats(point.spread);
    point.values = null;
    return { ...point, batches, values, squares, scale, spread };
  }

  // Influence and standard error of items [from, to) on item i.
  // `one` comes from `unpack`.
  function row(one, i, normalised, from, to) {
    const size = to - from;
    const value = new Float64Array(size).fill(NaN);
    const error = new Float64Array(size).fill(NaN);
    if (one.rows === 0) return { value, error };
    const { batches, values, squares, scale, edges } = one;
    const share = new Float64Array(batches * size);
    for (let b = 0; b < batches; b++) {
      const part = share.subarray(b * size, (b + 1) * size);
      for (let k = edges[b]; k < edges[b + 1]; k++) {
        const q = values[k * count + i];
        if (q === 0) continue;
        const offset = k * count + from;
        for (let j = 0; j < size; j++) part[j] += q * values[offset + j];
      }
    }
    for (let j = 0; j < size; j++) {
      const other = from + j;
      const both = scale[i] * scale[other];
      let total = 0;
      for (let b = 0; b < batches; b++) total += share[b * size + j] * both;
      let sum = 0, square = 0;
      const own = scale[i] * scale[i], theirs = scale[other] * scale[other];
      for (let b = 0; b < batches; b++) {
        let p = share[b * size + j] * both;
        if (normalised)
          p -= total / 2 *
            (squares[b * count + i] * own + squares[b * count + other] * theirs);
        share[b * size + j] = p;
        sum += p;
      }
      const mean = sum / batches;
      for (let b = 0; b < batches; b++) square += (share[b * size + j] - mean) ** 2;
      const unit = normalised ? 1 : factor * one.spread[i] * one.spread[other];
      value[j] = -total * unit;
      error[j] = Math.sqrt(square * batches / (batches - 1)) * unit;
    }
    return { value, error };
  }

  return { unpack, row };
}
