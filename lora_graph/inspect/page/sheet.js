// What is drawn: what is open and shown of which stages, and what follows when that changes: place() after boxes
// come or go, refresh() after a stage or a colour changes, redraw() after anything.

const FIRST_SIGHT = 150,
  DECADES = 4;
const UNITS = { time: "s", flops: "FLOP", bytes: "B" };

class Sheet {
  constructor(scene) {
    const isDiff = scene.subject === "diff";
    Object.assign(this, {
      scene,
      isDiff,
      isSplit: isDiff,
      stage: isDiff ? 1 : 0,
      against: 0,
      isKept: true,
      selected: -1,
      hovered: -1,
      changeAt: -1,
      showsKind: [true, true, true, false, true],
      openness: new Uint8Array(scene.m),
      heats: {},
      heat: null,
      isDirty: false,
      palette: readPalette(),
      all: [new Pane(scene, 0), new Pane(scene, 1)],
      matches: matchesOf(scene, []),
      search: new Search(scene),
      adapters: scene.addUp(
        Uint32Array.from({ length: scene.items }, (_, i) => (i < scene.n && scene.isAdapter(i) ? 1 : 0)),
      ),
    });
    this.view = new View(this);
    for (const [key, { ids, values }] of Object.entries(scene.metrics)) {
      const name = key === "flops" ? "FLOPs" : key;
      this.heats[name] = { name, unit: UNITS[key.split(",")[0]] ?? "", ids, values };
    }
    if (scene.subject === "profile") this.heat = Object.values(this.heats)[0] ?? null;
  }

  get panes() {
    return this.isSplit ? this.all : this.all.slice(0, 1);
  }

  /** The deepest level that does not show too much at once. */
  firstDepth() {
    const { scene } = this,
      seen = new Array(scene.levels + 2).fill(0);
    for (let i = 0; i < scene.n; i++) if (this.showsKind[scene.kind(i)]) seen[scene.depth[scene.nodes.block[i]]]++;
    let depth = 0,
      boxes = seen[0];
    while (depth < scene.levels && (boxes += seen[depth + 1]) <= FIRST_SIGHT) depth++;
    return depth;
  }

  isOpen(module) {
    return this.openness[module - this.scene.n] === 1;
  }
  isShown(node) {
    return this.showsKind[this.scene.kind(node)] && (this.isKept || this.panes.some((pane) => pane.isThere(node)));
  }
  extent() {
    return { w: this.placed.w[this.scene.root], h: this.placed.h[this.scene.root] };
  }

  /** The middle of the uppermost box. */
  first() {
    const { placed } = this,
      boxes = placed.order.filter((item) => !placed.isFrame(item));
    const top = boxes.reduce(
      (best, item) => (placed.y[item] < placed.y[best] ? item : best),
      boxes[0] ?? this.scene.root,
    );
    return placed.x[top] + placed.w[top] / 2;
  }

  place() {
    const { scene } = this;
    this.setStages();
    this.placed = new Placed(
      scene,
      (module) => this.isOpen(module),
      (node) => this.isShown(node),
    );
    this.wires = new Wires(this.placed);
    this.refresh();
  }

  setStages() {
    const [one, two] = this.all,
      left = this.isDiff ? 0 : this.against;
    if (this.isSplit) {
      one.show(left, this.stage, "removed", false);
      two.show(this.stage, left, "added", false);
    } else one.show(this.stage, this.stage - 1, "added", this.isKept);
  }

  refresh() {
    const { scene, panes } = this,
      shown = (node) => this.placed.count[node] > 0;
    for (const pane of panes) {
      pane.tally(shown);
      pane.follow(this.wires);
      pane.canvas.setAttribute("aria-label", `${scene.name}: ${scene.stages[pane.stage].name}`);
      pane.name.textContent = this.isSplit ? scene.stages[pane.stage].name : "";
    }
    for (const heat of Object.values(this.heats)) this.warm(heat);
    drawLegend(this);
    this.redraw();
  }

  /** Sums over modules of what is alive, and the largest value of a box that is drawn. */
  warm(heat) {
    const { scene, placed } = this,
      total = (heat.total = new Float64Array(scene.items));
    heat.ids.forEach((node, k) => {
      if (this.panes.some((pane) => pane.alive[node])) total[node] = heat.values[k];
    });
    scene.addUp(total);
    heat.sum = total[scene.root];
    heat.most = placed.order.reduce((most, item) => (placed.isFrame(item) ? most : Math.max(most, total[item])), 0);
    heat.share = (value) => 1 + Math.log10(value / heat.most) / DECADES;
  }

  redraw() {
    if (this.isDirty) return;
    this.isDirty = true;
    requestAnimationFrame(() => this.paint());
  }

  paint() {
    this.isDirty = false;
    for (const pane of this.panes) pane.drawn = new Painter(this, pane).paint();
  }

  /** Change what is drawn, and keep a box where it is on the screen: `anchor`, or what is in the middle of the view. */
  change(act, anchor = this.selected) {
    const spot = (item) => ({ x: this.placed.x[item] + this.placed.w[item] / 2, y: this.placed.y[item] });
    const held = this.placed.holds(anchor) ? anchor : this.central(),
      before = spot(held);
    act();
    this.place();
    if (!this.placed.holds(held)) return;
    const { k, x, y } = this.view,
      after = spot(held);
    this.view.set(k, x + (before.x - after.x) * k, y + (before.y - after.y) * k);
  }

  central() {
    const { view, placed } = this,
      x = (view.width / 2 - view.x) / view.k,
      y = (view.height / 2 - view.y) / view.k;
    let best = this.scene.root,
      least = Infinity;
    for (const item of placed.order) {
      const far = Math.abs(placed.x[item] + placed.w[item] / 2 - x) + Math.abs(placed.y[item] - y);
      if (!placed.isFrame(item) && far < least) [best, least] = [item, far];
    }
    return best;
  }
}
