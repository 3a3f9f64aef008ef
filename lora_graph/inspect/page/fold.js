// Where everything stands when some modules are closed and some nodes hidden. Python placed all of it with every module
// open. What nothing needs any more of that sheet is cut out, whole columns and whole rows: x and y go through one
// monotone map each, so that order stays, nothing comes to overlap, and a straight line stays straight.

/** How much of each [0, t) is covered by the intervals that were added. */
class Cover {
  constructor(length) {
    this.steps = new Int32Array(Math.max(length, 0) + 2);
  }

  add(start, end) {
    const last = this.steps.length - 1;
    this.steps[Math.min(Math.max(Math.floor(start), 0), last)]++;
    this.steps[Math.min(Math.max(Math.ceil(end), 0), last)]--;
  }

  close() {
    let open = 0,
      covered = 0;
    for (let t = 0; t < this.steps.length; t++) {
      open += this.steps[t];
      this.steps[t] = covered;
      if (open > 0) covered++;
    }
  }

  at(t) {
    return this.steps[Math.min(Math.max(Math.round(t), 0), this.steps.length - 1)];
  }
}

class Placed {
  /** `isOpen(module)` and `isShown(node)` say what there is to see. */
  constructor(scene, isOpen, isShown) {
    const { items, n } = scene;
    Object.assign(this, { scene, isOpen, count: new Uint32Array(items), frames: new Uint8Array(scene.m) });
    for (const name of ["x", "y", "w", "h"]) this[name] = new Float64Array(items);
    for (let i = 0; i < n; i++) this.count[i] = isShown(i) ? 1 : 0;
    scene.addUp(this.count);
    this.order = this.opened();
    this.standIns = this.findStandIns();
    this.cut();
    for (const item of this.order) this.put(item);
  }

  /** What is drawn, outer before inner: open modules with something in them, and the boxes in those. */
  opened() {
    const { scene, count } = this,
      order = [scene.root];
    for (let k = 0; k < order.length; k++) {
      const item = order[k];
      if (!scene.isModule(item) || (item !== scene.root && !this.isOpen(item))) continue;
      this.frames[item - scene.n] = 1;
      for (const child of scene.children[item - scene.n]) if (count[child]) order.push(child);
    }
    return order;
  }

  isFrame(item) {
    return this.scene.isModule(item) && this.frames[item - this.scene.n] === 1;
  }

  /** Whether an item is drawn itself, as a box or as a frame. */
  holds(item) {
    return item >= 0 && this.count[item] > 0 && (item === this.scene.root || this.isFrame(this.scene.parent[item]));
  }

  /** The box that stands for each node: itself, or the closed module that it is in; -1 for what is hidden. */
  findStandIns() {
    const { scene, count } = this,
      found = new Int32Array(scene.items).fill(-1);
    for (let j = 1; j < scene.m; j++) {
      const item = scene.n + j,
        above = scene.parent[item];
      found[item] = this.isFrame(above) ? (this.isFrame(item) ? -1 : item) : found[above];
    }
    for (let i = 0; i < scene.n; i++)
      if (count[i]) found[i] = this.isFrame(scene.parent[i]) ? i : found[scene.parent[i]];
    return found;
  }

  /** Of a point of a wire: whether the module that it is in is open. */
  isDrawn(point) {
    return this.frames[this.scene.points.block[point]] === 1;
  }

  /** Left, top, width and height of an item on the sheet with everything open, a closed module as its closed box. */
  before(item) {
    const { scene } = this,
      { nodes, blocks, n } = scene;
    if (item < n) return [nodes.x[item], nodes.y[item], nodes.w[item], nodes.h[item]];
    const j = item - n;
    if (this.frames[j]) return [blocks.x[j], blocks.y[j], blocks.w[j], blocks.h[j]];
    return [blocks.cx[j], blocks.y[j], blocks.cw[j], blocks.ch[j]];
  }

  cut() {
    const { scene } = this,
      { points, edges, spacing, blocks } = scene;
    this.across = new Cover(blocks.x[0] + blocks.w[0] + spacing.x);
    this.down = new Cover(blocks.y[0] + blocks.h[0] + spacing.y);
    for (const item of this.order) {
      const [x, y, w, h] = this.before(item),
        side = spacing.x,
        pad = spacing.pad;
      if (item === scene.root) continue;
      if (this.isFrame(item)) {
        this.across.add(x - side, x + pad);
        this.across.add(x + w - pad, x + w + side);
        this.down.add(y - spacing.y, y + spacing.header);
        this.down.add(y + h - spacing.y, y + h + spacing.y);
      } else {
        this.across.add(x - side, x + w + side);
        this.down.add(y - spacing.y, y + h + spacing.y);
      }
    }
    const seen = new Uint8Array(points.x.length),
      { standIns } = this;
    for (let e = 0; e < edges.from.length; e++) {
      const a = standIns[edges.from[e]],
        b = standIns[edges.to[e]];
      if (a < 0 || b < 0 || a === b) continue;
      for (let p = edges.end[e]; p >= 0 && !seen[p]; p = points.parent[p]) {
        seen[p] = 1;
        if (!this.isDrawn(p)) continue;
        this.across.add(points.x[p] - spacing.wire, points.x[p] + spacing.wire);
        const q = points.parent[p];
        if (q >= 0 && points.x[q] !== points.x[p])
          this.down.add(Math.max(points.y[q], points.y[p] - 2 * spacing.y), points.y[p]);
      }
    }
    this.across.close();
    this.down.close();
  }

  put(item) {
    const [x, y, w, h] = this.before(item),
      isFrame = this.isFrame(item);
    this.x[item] = this.across.at(x);
    this.y[item] = this.down.at(y);
    this.w[item] = isFrame ? this.across.at(x + w) - this.x[item] : w;
    this.h[item] = isFrame ? this.down.at(y + h) - this.y[item] : h;
  }
}
