// The lines between the boxes that are drawn. Python strung them: all edges of one node share their way as far as it is
// the same, from point to point. Here they are cut off at the borders of closed modules.

const CORNER = 10;

class Wires {
  constructor(placed) {
    const { scene } = placed,
      { edges, points } = scene;
    Object.assign(this, { placed, scene, pieces: [], pieceOf: new Int32Array(points.x.length).fill(-1), ends: [] });
    this.endOf = new Int32Array(edges.from.length).fill(-1);
    const known = new Map();
    for (let e = 0; e < edges.from.length; e++) {
      const a = placed.standIns[edges.from[e]],
        b = placed.standIns[edges.to[e]];
      if (a < 0 || b < 0 || a === b) continue;
      const { start, port } = this.entry(e, b),
        key = (start < 0 ? points.x.length + a : start) * scene.items + b;
      let end = known.get(key);
      if (end === undefined) {
        const [x0, y0] = start < 0 ? this.exit(edges.from[e], a, -1) : this.spot(start);
        known.set(key, (end = this.pieces.length));
        this.ends.push({ a, b, edges: [], piece: end });
        this.pieces.push({
          x0,
          y0,
          x1: port,
          y1: placed.y[b],
          line: this.ends.at(-1),
          isAdapter: this.isOfAdapter(a) || this.isOfAdapter(b),
        });
      }
      this.pieces[end].line.edges.push(e);
      this.endOf[e] = end;
      this.string(edges.from[e], a, start);
    }
  }

  isOfAdapter(box) {
    return !this.scene.isModule(box) && this.scene.isAdapter(box);
  }

  spot(point) {
    const { points } = this.scene;
    return [this.placed.across.at(points.x[point]), this.placed.down.at(points.y[point])];
  }

  /** The last point before the box `b`, -1 if there is none, and the column in which the line gets to that box. */
  entry(e, b) {
    const { placed, scene } = this,
      { points, edges, nodes } = scene,
      target = edges.to[e];
    let start = edges.end[e],
      column = nodes.x[target] + nodes.w[target] / 2;
    if (target === b)
      return { start: start >= 0 && placed.isDrawn(start) ? start : -1, port: placed.x[b] + placed.w[b] / 2 };
    for (; start >= 0 && !placed.isDrawn(start) && this.isInside(points.block[start], b); start = points.parent[start])
      column = points.x[start];
    return { start: start >= 0 && placed.isDrawn(start) ? start : -1, port: this.along(b, placed.across.at(column)) };
  }

  isInside(block, box) {
    const { scene } = this;
    let item = scene.n + block;
    while (item > scene.root && item !== box) item = scene.parent[item];
    return item === box;
  }

  along(box, column) {
    const { x, w } = this.placed;
    return Math.min(Math.max(column, x[box] + CORNER), x[box] + w[box] - CORNER);
  }

  /** Where the line of `node` leaves the box `a`; `point` is the first point on its way that is inside, if any is. */
  exit(node, a, point) {
    const { placed, scene } = this,
      { nodes, points } = scene,
      { x, y, w, h } = placed;
    if (node === a) return [x[a] + w[a] / 2, y[a] + h[a]];
    const column = point >= 0 ? points.x[point] : nodes.x[node] + nodes.w[node] / 2;
    return [this.along(a, placed.across.at(column)), y[a] + h[a]];
  }

  /** The pieces on the way from `node`, in the box `a`, to `point`. */
  string(node, a, point) {
    const { placed, scene, pieceOf } = this,
      { parent } = scene.points;
    for (let p = point; p >= 0 && placed.isDrawn(p) && pieceOf[p] < 0; p = parent[p]) {
      const q = parent[p],
        [x1, y1] = this.spot(p),
        [x0, y0] = q >= 0 && placed.isDrawn(q) ? this.spot(q) : this.exit(node, a, q);
      pieceOf[p] = this.pieces.length;
      this.pieces.push({ x0, y0, x1, y1, line: null, isAdapter: this.isOfAdapter(a) });
    }
  }

  /** The pieces of an edge, from its end to its start. */
  *way(e) {
    const { placed, scene, pieceOf } = this;
    if (this.endOf[e] < 0) return;
    yield this.endOf[e];
    let { start: p } = this.entry(e, placed.standIns[scene.edges.to[e]]);
    for (; p >= 0 && pieceOf[p] >= 0; p = scene.points.parent[p]) yield pieceOf[p];
  }

  /** For each piece, bit 1 if an edge of `now` goes along it, bit 2 if one of `then` does. */
  taken(now, then) {
    const bits = new Uint8Array(this.pieces.length);
    for (let e = 0; e < now.length; e++) {
      const mine = now[e] | (then ? then[e] << 1 : 0);
      if (mine)
        for (const piece of this.way(e)) {
          if ((bits[piece] & mine) === mine) break;
          bits[piece] |= mine;
        }
    }
    return bits;
  }
}

/** Straight in a column, an S from one to another; from far away, where that cannot be seen, straight as well. */
const trace = (ctx, { x0, y0, x1, y1 }, isSmooth) => {
  ctx.moveTo(x0, y0);
  const middle = (y0 + y1) / 2;
  if (x0 === x1 || !isSmooth) ctx.lineTo(x1, y1);
  else ctx.bezierCurveTo(x0, middle, x1, middle, x1, y1);
};
