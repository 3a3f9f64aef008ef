// What is open, shown, selected and searched for, and what follows when one of these changes:
// place() after boxes come or go, refresh() after a stage or a colour changes, redraw() after anything.

const FIRST_SIGHT = 150, DECADES = 4;
const HEATS = { time: { name: "time", unit: "s" }, flops: { name: "FLOPs", unit: "FLOP" }, bytes: { name: "bytes", unit: "B" } };

class Page {
  constructor(scene) {
    const isDiff = scene.subject === "diff";
    Object.assign(this, {
      scene, isDiff, isSplit: isDiff, stage: isDiff ? 1 : 0, against: 0, isKept: true, selected: -1, hovered: -1, changeAt: -1,
      showsKind: [true, true, true, false, true], openness: new Uint8Array(scene.m), heats: {}, heat: null, isDirty: false, palette: readPalette(),
      all: [new Pane(scene, 0), new Pane(scene, 1)], matches: matchesOf(scene, []), search: new Search(scene),
      adapters: scene.addUp(Uint32Array.from({ length: scene.items }, (_, i) => (i < scene.n && scene.isAdapter(i) ? 1 : 0))),
    });
    this.view = new View(this);
    this.panel = new Panel(this);
    for (const [key, { ids, values }] of Object.entries(scene.metrics)) this.heats[HEATS[key]?.name ?? key] = { name: key, unit: "", ...HEATS[key], ids, values };
    this.setDepth(this.firstDepth());
  }

  get panes() { return this.isSplit ? this.all : this.all.slice(0, 1); }

  /** The deepest level that does not show too much at once. */
  firstDepth() {
    const { scene } = this, seen = new Array(scene.levels + 2).fill(0);
    for (let i = 0; i < scene.n; i++) if (this.showsKind[scene.kind(i)]) seen[scene.depth[scene.nodes.block[i]]]++;
    let depth = 0, boxes = seen[0];
    while (depth < scene.levels && (boxes += seen[depth + 1]) <= FIRST_SIGHT) depth++;
    return depth;
  }

  isOpen(module) { return this.openness[module - this.scene.n] === 1; }
  isShown(node) { return this.showsKind[this.scene.kind(node)] && (this.isKept || this.panes.some((pane) => pane.isThere(node))); }
  extent() { return { w: this.placed.w[this.scene.root], h: this.placed.h[this.scene.root] }; }

  /** The middle of the uppermost box. */
  first() {
    const { placed } = this, boxes = placed.order.filter((item) => !placed.isFrame(item));
    const top = boxes.reduce((best, item) => (placed.y[item] < placed.y[best] ? item : best), boxes[0] ?? this.scene.root);
    return placed.x[top] + placed.w[top] / 2;
  }

  place() {
    const { scene } = this;
    this.setStages();
    this.placed = new Placed(scene, (module) => this.isOpen(module), (node) => this.isShown(node));
    this.wires = new Wires(this.placed);
    this.refresh();
  }

  setStages() {
    const [one, two] = this.all, left = this.isDiff ? 0 : this.against;
    if (this.isSplit) {
      one.show(left, this.stage, "removed", false);
      two.show(this.stage, left, "added", false);
    } else one.show(this.stage, this.stage - 1, "added", this.isKept);
  }

  refresh() {
    const { scene, panes } = this, shown = (node) => this.placed.count[node] > 0;
    for (const pane of panes) {
      pane.tally(shown);
      pane.follow(this.wires);
      pane.canvas.setAttribute("aria-label", `${scene.name}: ${scene.stages[pane.stage].name}`);
      pane.name.textContent = this.isSplit ? scene.stages[pane.stage].name : "";
    }
    for (const heat of Object.values(this.heats)) this.warm(heat);
    drawLegend(this);
    this.panel.show(this.selected);
    this.redraw();
  }

  /** Sums over modules of what is alive, and the largest value of a box that is drawn. */
  warm(heat) {
    const { scene, placed } = this, total = (heat.total = new Float64Array(scene.items));
    heat.ids.forEach((node, k) => { if (this.panes.some((pane) => pane.alive[node])) total[node] = heat.values[k]; });
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
    const held = anchor >= 0 && this.placed.count[anchor] ? anchor : this.central(), before = spot(held);
    act();
    this.place();
    if (!this.placed.count[held]) return;
    const { k, x, y } = this.view, after = spot(held);
    this.view.set(k, x + (before.x - after.x) * k, y + (before.y - after.y) * k);
  }

  central() {
    const { view, placed } = this, x = (view.width / 2 - view.x) / view.k, y = (view.height / 2 - view.y) / view.k;
    let best = this.scene.root, least = Infinity;
    for (const item of placed.order) {
      const far = Math.abs(placed.x[item] + placed.w[item] / 2 - x) + Math.abs(placed.y[item] - y);
      if (!placed.isFrame(item) && far < least) [best, least] = [item, far];
    }
    return best;
  }

  setDepth(depth) {
    const { scene } = this;
    for (let j = 0; j < scene.m; j++) this.openness[j] = scene.depth[j] <= depth ? 1 : 0;
    this.depth = depth;
    this.place();
    this.view.fit(true);
    this.say();
  }

  toggle(module) {
    this.change(() => { this.openness[module - this.scene.n] ^= 1; }, module);
    this.depth = -1;
    this.say();
  }

  setStage(stage) {
    const next = Math.min(Math.max(stage, 0), this.scene.stages.length - 1);
    if (this.isDiff || next === this.stage) return;
    this.stage = next;
    if (this.isKept) {
      this.setStages();
      this.refresh();
    } else this.change(() => this.setStages());
    this.say();
  }

  setAgainst(stage) {
    this.change(() => { this.against = stage; });
    this.say();
  }

  setSplit(isSplit) {
    if (this.isDiff || this.scene.stages.length < 2) return;
    this.isSplit = isSplit;
    this.all[1].canvas.parentElement.hidden = !isSplit;
    this.place();
    this.view.fit(true);
    this.say();
  }

  setKept(isKept) {
    this.change(() => { this.isKept = isKept; });
    this.say();
  }

  setKind(kind, isShown) {
    this.change(() => { this.showsKind[kind] = isShown; });
    this.say();
  }

  setHeat(name) {
    this.heat = this.heats[name] ?? null;
    this.refresh();
    this.say();
  }

  /** What is under a point of the sheet: a box, the head of an open module, or -1. */
  hit(pane, point) {
    const { placed, scene } = this, { x, y, w, h } = placed;
    if (point === null) return -1;
    for (let k = placed.order.length - 1; k > 0; k--) {
      const item = placed.order[k], high = placed.isFrame(item) ? scene.spacing.header + 4 : h[item];
      if (point.x >= x[item] && point.x <= x[item] + w[item] && point.y >= y[item] && point.y <= y[item] + high && pane.shows(item)) return item;
    }
    return -1;
  }

  hover(pane, point) {
    const item = this.hit(pane, point);
    if (item === this.hovered) return;
    this.hovered = item;
    pane.canvas.classList.toggle("over", item >= 0);
    this.redraw();
  }

  click(pane, point) {
    const item = this.hit(pane, point), { x, y, w } = this.placed;
    if (item >= 0 && this.scene.isModule(item)) {
      const isFrame = this.placed.isFrame(item), across = isFrame ? point.x - x[item] : x[item] + w[item] - point.x;
      if (across < 25 && point.y - y[item] < 25) return this.toggle(item);
    }
    return this.select(item);
  }

  open(pane, point) {
    const item = this.hit(pane, point);
    if (item >= 0 && this.scene.isModule(item)) this.toggle(item);
  }

  select(item) {
    const { scene } = this;
    this.selected = item;
    this.panel.show(item);
    if (item >= 0) {
      const what = scene.isModule(item) ? `module of ${count(scene.size(item))} nodes, ${this.isOpen(item) ? "open" : "closed"}` : scene.type(item);
      document.getElementById("spoken").textContent = `${scene.title(item)}, ${what}`;
    }
    this.redraw();
  }

  /** Lead to a node or module, whatever it takes: the pass in which it lives, modules opened, its kind shown. */
  visit(item) {
    const { scene } = this;
    if (!scene.isModule(item)) {
      this.showsKind[scene.kind(item)] = true;
      if (!this.panes.some((pane) => pane.alive[item])) this.stage = this.nearestStage(item);
    }
    for (const module of scene.around(item)) {
      if (!this.isOpen(module)) this.depth = -1;
      this.openness[module - scene.n] = 1;
    }
    this.place();
    this.select(item);
    this.see(item);
    this.say();
  }

  nearestStage(node) {
    const living = this.scene.alive.flatMap((alive, stage) => (alive[node] ? [stage] : []));
    return living.reduce((best, stage) => (Math.abs(stage - this.stage) < Math.abs(best - this.stage) ? stage : best), living[0] ?? this.stage);
  }

  see(item) {
    const { x, y, w, h } = this.placed;
    this.view.bring({ x: x[item], y: y[item], w: w[item], h: h[item] });
  }

  seek(query) {
    const input = document.getElementById("search"), isThere = (node) => this.panes.some((pane) => pane.alive[node]);
    if (input.value !== query) input.value = query;
    this.matches = matchesOf(this.scene, this.search.find(query, isThere));
    this.query = query;
    this.redraw();
    this.say();
  }

  match(step) {
    const { matches } = this;
    if (!matches.count) return;
    matches.current = matches.current < 0 ? (step > 0 ? 0 : matches.count - 1) : (matches.current + step + matches.count) % matches.count;
    this.visit(matches.nodes[matches.current]);
  }

  /** To a change of the list: its nodes come into sight, the first of them selected. */
  jump(k) {
    const { changes } = this.scene;
    if (!changes.length) return;
    this.changeAt = (k + changes.length) % changes.length;
    const [node] = changes[this.changeAt][2];
    if (node !== undefined) this.visit(node);
  }

  /** Tell the controls. */
  say() { this.onChange?.(); }
}
