// Canvases of the page of a table: the matrix with its tree, and hidden representations.
const tableViews = (function () {
  const SHADES = 256;
  const TREE = 88, LEAST_LABEL = 10, FONT = "11px system-ui, sans-serif";

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const rgb = (text) => text.startsWith("#")
    ? [1, 3, 5].map((k) => parseInt(text.slice(k, k + 2), 16)) : text.split(",").map(Number);

  // Colours from helps (0) over the ground (SHADES) to harms (2 SHADES), as 32-bit pixels.
  function colours() {
    const ground = rgb(css("--ground"));
    const ends = [rgb(css("--help")), rgb(css("--harm"))];
    const pixels = new Uint32Array(2 * SHADES + 1);
    const texts = [];
    for (let k = 0; k <= 2 * SHADES; k++) {
      const depth = Math.abs(k - SHADES) / SHADES;
      const end = ends[k < SHADES ? 0 : 1];
      const c = ground.map((g, j) => Math.round(g + depth * (end[j] - g)));
      pixels[k] = (255 << 24 | c[2] << 16 | c[1] << 8 | c[0]) >>> 0;
      texts.push(`rgb(${c.join(",")})`);
    }
    const shade = (value, scale) => Number.isFinite(value)
      ? SHADES + Math.round(SHADES * Math.max(-1, Math.min(1, value / scale))) : SHADES;
    return { pixels, texts, shade, ink: css("--ink"), soft: css("--soft"), line: css("--line"),
      edge: css("--edge"), ground: css("--ground"), panel: css("--panel") };
  }

  // A canvas as sharp as the screen; returns its context in CSS pixels.
  function sharp(canvas, width, height) {
    const ratio = window.devicePixelRatio || 1;
    canvas.style.height = `${height}px`;
    const size = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== size[0]) canvas.width = size[0];
    if (canvas.height !== size[1]) canvas.height = size[1];
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = FONT;
    return context;
  }

  function fitted(context, text, room) {
    if (context.measureText(text).width <= room) return text;
    let kept = text.length;
    while (kept > 1 && context.measureText(`${text.slice(0, kept)}…`).width > room) kept--;
    return `${text.slice(0, kept)}…`;
  }

  const widths = new Map();
  function widthOf(context, text) {
    if (!widths.has(text)) widths.set(text, context.measureText(text).width);
    return widths.get(text);
  }

  // Where everything stands; rows and columns are places of queries and of train items.
  function layout(context, width, { rows, columns, queries, trains, tree }) {
    const widest = (places, all, most) =>
      Math.max(...places.map((k) => Math.min(most, widthOf(context, all[k]))));
    // Names that would have no room are not measured.
    const room = rows.length > 80 ? 0 : widest(rows, queries, 130);
    const top = tree ? TREE + 6 : 6;
    const tall = Math.max(4, Math.min(560, window.innerHeight * .62));
    const wide = Math.min(64, (width - room - 12) / columns.length);
    let cell = [wide, Math.min(64, tall / rows.length)];
    if (rows.length === columns.length) cell = [Math.min(...cell), Math.min(...cell)];
    const rowNames = cell[1] >= LEAST_LABEL, columnNames = cell[0] >= LEAST_LABEL;
    const left = rowNames ? room + 10 : 12;
    if (!rowNames) {
      cell[0] = Math.min(64, (width - left - 4) / columns.length);
      if (rows.length === columns.length)
        cell = [Math.min(cell[0], tall / rows.length), Math.min(cell[0], tall / rows.length)];
    }
    const foot = columnNames ? widest(columns, trains, 110) + 10 : 6;
    const size = [cell[0] * columns.length, cell[1] * rows.length];
    return { left, top, cell, size, foot, rowNames, columnNames, room,
      height: top + size[1] + foot };
  }

  function names(context, at, look, view) {
    const { rows, columns, queries, trains, chosen } = view;
    context.textBaseline = "middle";
    if (at.rowNames) {
      context.textAlign = "right";
      rows.forEach((q, k) => {
        context.fillStyle = q === chosen.query ? look.ink : look.soft;
        context.font = q === chosen.query ? `bold ${FONT}` : FONT;
        context.fillText(fitted(context, queries[q], at.room), at.left - 5,
          at.top + (k + .5) * at.cell[1]);
      });
    }
    if (at.columnNames) {
      columns.forEach((i, k) => {
        context.save();
        context.translate(at.left + (k + .5) * at.cell[0], at.top + at.size[1] + 5);
        context.rotate(-Math.PI / 2);
        context.textAlign = "right";
        context.fillStyle = i === chosen.train ? look.ink : look.soft;
        context.font = i === chosen.train ? `bold ${FONT}` : FONT;
        context.fillText(fitted(context, trains[i], 110), 0, 0);
        context.restore();
      });
    }
    context.font = FONT;
  }

  let cells = null, drawn = [];

  // One pixel for every pair; drawn again only where something changed.
  function cellsOf(view, look) {
    const { rows, columns, plane, trains, scale, uncertain, symmetric } = view;
    const own = [rows, columns, view.of, scale, look];
    if (own.every((part, k) => part === drawn[k])) return cells;
    drawn = own;
    const [wide, high] = [columns.length, rows.length];
    if (cells === null || cells.width !== wide || cells.height !== high) {
      cells = document.createElement("canvas");
      [cells.width, cells.height] = [wide, high];
    }
    const image = new ImageData(wide, high);
    const pixels = new Uint32Array(image.data.buffer);
    const factor = SHADES / scale, count = trains.length;
    const colourAt = (place) => {
      let shade = plane[place] * factor;
      if (uncertain && uncertain[place]) shade *= .3;
      shade = shade > SHADES ? SHADES : shade < -SHADES ? -SHADES : shade;
      // A value that is not a number has the colour of 0.
      return look.pixels[shade === shade ? (shade + SHADES + .5) | 0 : SHADES];
    };
    for (let a = 0; a < high; a++) {
      const q = rows[a], offset = symmetric ? q * count - q * (q + 1) / 2 : q * count;
      const mirrored = symmetric && rows === columns;
      for (let b = mirrored ? a : 0; b < wide; b++) {
        const i = columns[b];
        const colour = colourAt(symmetric && i < q
          ? i * count - i * (i + 1) / 2 + q : offset + i);
        pixels[a * wide + b] = colour;
        if (mirrored) pixels[b * wide + a] = colour;
      }
    }
    cells.getContext("2d").putImageData(image, 0, 0);
    return cells;
  }

  // Joins of the tree that are shown: left end, right end and height of each.
  function joinsOf(view, at) {
    const { tree, columns } = view;
    const place = new Map(columns.map((i, k) => [i, at.left + (k + .5) * at.cell[0]]));
    const items = tree.joins.length + 1;
    const x = [], y = [], found = [];
    for (let i = 0; i < items; i++) [x[i], y[i]] = [place.get(i), 0];
    tree.joins.forEach(([a, b], j) => {
      if (x[a] === undefined || x[b] === undefined) return;
      const height = Math.max(tree.heights[j], y[a], y[b]);
      [x[items + j], y[items + j]] = [(x[a] + x[b]) / 2, height];
      found.push({ branch: items + j, x: [x[a], x[b]], low: [y[a], y[b]], y: height });
    });
    const level = (height) => at.top - 4 - (TREE - 10) * height / (tree.tallest || 1);
    return found.map((join) => ({ ...join, y: level(join.y), low: join.low.map(level) }));
  }

  function drawTree(context, view, at, look) {
    const joins = joinsOf(view, at);
    // Of many items only branches that can be told apart have lines.
    const least = joins.length > 150 ? 3 : 0;
    context.lineWidth = joins.length > 150 ? .6 : 1;
    context.strokeStyle = look.soft;
    context.beginPath();
    for (const { x, y, low } of joins) {
      if (x[1] - x[0] < least) continue;
      context.moveTo(x[0], low[0]);
      context.lineTo(x[0], y);
      context.lineTo(x[1], y);
      context.lineTo(x[1], low[1]);
    }
    context.stroke();
    return joins;
  }

  // Draws the matrix; returns what stands at a place of the canvas.
  function matrix(canvas, view) {
    const width = canvas.parentElement.clientWidth;
    const look = view.look;
    const plain = canvas.getContext("2d");
    plain.font = `bold ${FONT}`;
    const at = layout(plain, width, view);
    const context = sharp(canvas, width, at.height);
    context.imageSmoothingEnabled = Math.min(...at.cell) < 1;
    context.drawImage(cellsOf(view, look), at.left, at.top, at.size[0], at.size[1]);
    context.strokeStyle = look.line;
    context.lineWidth = 1;
    context.strokeRect(at.left - .5, at.top - .5, at.size[0] + 1, at.size[1] + 1);
    names(context, at, look, view);
    const joins = view.tree ? drawTree(context, view, at, look) : [];
    const row = view.rows.indexOf(view.chosen.query);
    const column = view.columns.indexOf(view.chosen.train);
    if (row >= 0 && column >= 0) {
      const corner = [at.left + column * at.cell[0], at.top + row * at.cell[1]];
      if (Math.min(...at.cell) < 4) {
        context.strokeStyle = look.soft;
        context.setLineDash([2, 3]);
        context.strokeRect(at.left, corner[1] + at.cell[1] / 2, at.size[0], 0);
        context.strokeRect(corner[0] + at.cell[0] / 2, at.top, 0, at.size[1]);
        context.setLineDash([]);
      }
      const more = Math.max(0, (7 - Math.min(...at.cell)) / 2);
      const frame = [corner[0] - more, corner[1] - more, at.cell[0] + 2 * more,
        at.cell[1] + 2 * more];
      context.lineWidth = 4;
      context.strokeStyle = look.ground;
      context.strokeRect(...frame);
      context.lineWidth = 2;
      context.strokeStyle = look.ink;
      context.strokeRect(...frame);
    }
    return {
      cell(x, y) {
        const column = Math.floor((x - at.left) / at.cell[0]);
        const row = Math.floor((y - at.top) / at.cell[1]);
        const inside = column >= 0 && column < view.columns.length && row >= 0 &&
          row < view.rows.length;
        return inside ? { query: view.rows[row], train: view.columns[column] } : null;
      },
      branch(x, y) {
        if (y > at.top) return null;
        const near = joins.map((j) => ({ branch: j.branch, away: Math.abs(j.y - y) +
          Math.max(0, j.x[0] - x, x - j.x[1]) })).filter((j) => j.away < 10);
        return near.length ? near.reduce((a, b) => b.away < a.away ? b : a).branch : null;
      },
      middle: (query, train) => [at.left + (view.columns.indexOf(train) + .5) * at.cell[0],
        at.top + (view.rows.indexOf(query) + .5) * at.cell[1]],
      join: (branch) => {
        const found = joins.find((j) => j.branch === branch);
        return found ? [(found.x[0] + found.x[1]) / 2, found.y] : null;
      },
    };
  }

  // Draws items at places (x, y) in one frame of all of training, with their paths so far.
  function places(canvas, view) {
    const width = canvas.parentElement.clientWidth;
    const height = Math.max(180, Math.min(width * .9, 360));
    const context = sharp(canvas, width, height);
    const { look, ends, at, paths, shown, names: labels, chosen } = view;
    const box = [30, 8, width - 8, height - 26];
    const spans = [0, 1].map((k) => ends[k][1] - ends[k][0] || 1);
    const unit = Math.min((box[2] - box[0] - 50) / spans[0], (box[3] - box[1] - 16) / spans[1]);
    const middle = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2];
    const x = (v) => middle[0] + unit * (v - (ends[0][0] + ends[0][1]) / 2);
    const y = (v) => middle[1] - unit * (v - (ends[1][0] + ends[1][1]) / 2);
    context.strokeStyle = look.line;
    context.lineWidth = 1;
    context.strokeRect(box[0] + .5, box[1] + .5, box[2] - box[0], box[3] - box[1]);
    context.fillStyle = look.soft;
    context.textAlign = "center";
    context.fillText(view.axes[0], middle[0], height - 8);
    context.save();
    context.translate(11, middle[1]);
    context.rotate(-Math.PI / 2);
    context.fillText(view.axes[1], 0, 0);
    context.restore();
    context.strokeStyle = look.edge;
    context.globalAlpha = .6;
    for (const path of paths) {
      context.beginPath();
      path.forEach(([a, b], k) => k ? context.lineTo(x(a), y(b)) : context.moveTo(x(a), y(b)));
      context.stroke();
    }
    context.globalAlpha = 1;
    const found = [];
    const radius = shown.length > 200 ? 2.2 : shown.length > 60 ? 3 : 4.5;
    const order = [...shown.filter((i) => !chosen.includes(i)),
      ...chosen.filter((i) => shown.includes(i))];
    for (const i of order) {
      const [px, py] = [x(at[i][0]), y(at[i][1])];
      found.push([i, px, py]);
      context.beginPath();
      context.arc(px, py, chosen.includes(i) ? radius + 1.5 : radius, 0, 7);
      context.fillStyle = look.texts[view.shades[i]];
      context.strokeStyle = chosen.includes(i) ? look.ink : look.soft;
      context.lineWidth = chosen.includes(i) ? 2 : .8;
      context.fill();
      if (radius > 2.5 || chosen.includes(i)) context.stroke();
    }
    label(context, order.reverse(), found, { labels, chosen, box, look });
    return { item: (px, py) => {
      const near = found.map(([i, a, b]) => [i, Math.hypot(a - px, b - py)])
        .filter((one) => one[1] < 12);
      return near.length ? near.reduce((a, b) => b[1] < a[1] ? b : a)[0] : null;
    } };
  }

  // Names beside points, the chosen ones first, where no other name stands.
  function label(context, order, found, { labels, chosen, box, look }) {
    const taken = [];
    const where = new Map(found.map(([i, px, py]) => [i, [px, py]]));
    context.textBaseline = "middle";
    context.textAlign = "left";
    for (const i of order) {
      if (order.length > 60 && !chosen.includes(i)) continue;
      const [px, py] = where.get(i);
      const text = fitted(context, labels[i], 90);
      const wide = context.measureText(text).width;
      const left = px + 9 + wide > box[2] ? px - 9 - wide : px + 9;
      const own = [left, py - 6, left + wide, py + 6];
      if (taken.some((t) => own[0] < t[2] && own[2] > t[0] && own[1] < t[3] && own[3] > t[1]))
        continue;
      taken.push(own);
      context.lineWidth = 3;
      context.strokeStyle = look.ground;
      context.strokeText(text, left, py);
      context.fillStyle = chosen.includes(i) ? look.ink : look.soft;
      context.fillText(text, left, py);
    }
  }

  return { colours, matrix, places };
})();
