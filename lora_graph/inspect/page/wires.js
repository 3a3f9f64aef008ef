// The lines between the boxes that are drawn. Python strung them: all edges of one node share their way as far as it is
// the same, from point to point. Here they are cut off at the borders of closed modules.

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
      const last = this.entry(e, b),
        key = (last < 0 ? points.x.length + a : last) * scene.items + b;
      let end = known.get(key);
      if (end === undefined) {
        const [x0, y0] = this.start(last, a);
        known.set(key, (end = this.pieces.length));
        this.ends.push({ a, b, edges: [], piece: end });
        this.pieces.push({
          x0,
          y0,
          x1: this.middle(b),
          y1: placed.y[b],
          line: this.ends.at(-1),
          isAdapter: this.isOfAdapter(a) || this.isOfAdapter(b),
        });
      }
      this.pieces[end].line.edges.push(e);
      this.endOf[e] = end;
      this.string(last, a);
    }
  }

  isOfAdapter(box) {
    return !this.scene.isModule(box) && this.scene.isAdapter(box);
  }

  spot(point) {
    const { points } = this.scene;
    return [this.placed.across.at(points.x[point]), this.placed.down.at(points.y[point])];
  }

  /** The last point before the box `b`, -1 if there is none. */
  entry(e, b) {
    const { placed, scene } = this;
    let p = scene.edges.end[e];
    while (p >= 0 && !placed.isDrawn(p) && this.isInside(scene.points.block[p], b)) p = scene.points.parent[p];
    return p >= 0 && placed.isDrawn(p) ? p : -1;
  }

  isInside(block, box) {
    const { scene } = this;
    let item = scene.n + block;
    while (item > scene.root && item !== box) item = scene.parent[item];
    return item === box;
  }

  /** The middle of a box: lines leave below it and come in above it. */
  middle(box) {
    return this.placed.x[box] + this.placed.w[box] / 2;
  }

  /** Where a line comes from: the point `p` if that is drawn, else the box `a`. */
  start(p, a) {
    const { placed } = this;
    return p >= 0 && placed.isDrawn(p) ? this.spot(p) : [this.middle(a), placed.y[a] + placed.h[a]];
  }

  /** The pieces on the way from the box `a` to `point`. */
  string(point, a) {
    const { placed, scene, pieceOf } = this,
      { parent } = scene.points;
    for (let p = point; p >= 0 && placed.isDrawn(p) && pieceOf[p] < 0; p = parent[p]) {
      const [x1, y1] = this.spot(p),
        [x0, y0] = this.start(parent[p], a);
      pieceOf[p] = this.pieces.length;
      this.pieces.push({ x0, y0, x1, y1, line: null, isAdapter: this.isOfAdapter(a) });
    }
  }

  /** The pieces of an edge, from its end to its start. */
  *way(e) {
    const { placed, scene, pieceOf } = this;
    if (this.endOf[e] < 0) return;
    yield this.endOf[e];
    let p = this.entry(e, placed.standIns[scene.edges.to[e]]);
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
