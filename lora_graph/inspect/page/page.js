// What one can do on the page. Whatever changes, the controls and the side panel are told.

class Page extends Sheet {
  constructor(scene) {
    super(scene);
    this.panel = new Panel(this);
    this.setDepth(this.firstDepth());
  }

  refresh() {
    super.refresh();
    this.panel.show(this.selected);
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
    this.change(() => {
      this.openness[module - this.scene.n] ^= 1;
    }, module);
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
    this.change(() => {
      this.against = stage;
    });
    this.say();
  }

  setSplit(isSplit) {
    if (this.isDiff || this.scene.stages.length < 2) return;
    this.isSplit = isSplit;
    this.all[1].canvas.closest(".pane").hidden = !isSplit;
    this.place();
    this.view.fit(true);
    this.say();
  }

  setKept(isKept) {
    this.change(() => {
      this.isKept = isKept;
    });
    this.say();
  }

  setKind(kind, isShown) {
    this.change(() => {
      this.showsKind[kind] = isShown;
    });
    this.say();
  }

  setHeat(name) {
    this.heat = this.heats[name] ?? null;
    this.refresh();
    this.say();
  }

  /** What is under a point of the sheet: a box, the head of an open module, or -1. */
  hit(pane, point) {
    const { placed, scene } = this,
      { x, y, w, h } = placed;
    if (point === null) return -1;
    for (let k = placed.order.length - 1; k > 0; k--) {
      const item = placed.order[k],
        high = placed.isFrame(item) ? scene.spacing.header + 4 : h[item];
      if (
        point.x >= x[item] &&
        point.x <= x[item] + w[item] &&
        point.y >= y[item] &&
        point.y <= y[item] + high &&
        pane.shows(item)
      )
        return item;
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
    const item = this.hit(pane, point),
      { x, y, w } = this.placed;
    if (item >= 0 && this.scene.isModule(item)) {
      const isFrame = this.placed.isFrame(item),
        across = isFrame ? point.x - x[item] : x[item] + w[item] - point.x;
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
      const what = scene.isModule(item)
        ? `module of ${count(scene.size(item))} nodes, ${this.isOpen(item) ? "open" : "closed"}`
        : scene.type(item);
      document.getElementById("spoken").textContent = `${scene.title(item)}, ${what}`;
    }
    this.redraw();
  }

  /** Lead to a node or module, whatever it takes: the pass in which it lives, modules opened, its kind shown. */
  visit(item) {
    const { scene, stage } = this,
      closed = scene.around(item).filter((module) => !this.isOpen(module));
    let isHidden = closed.length > 0;
    if (!scene.isModule(item)) {
      isHidden ||= !this.showsKind[scene.kind(item)];
      this.showsKind[scene.kind(item)] = true;
      if (!this.panes.some((pane) => pane.alive[item])) this.stage = this.nearestStage(item);
    }
    for (const module of closed) this.openness[module - scene.n] = 1;
    if (closed.length) this.depth = -1;
    if (isHidden || this.stage !== stage) this.place();
    this.select(item);
    this.see(item);
    this.say();
  }

  nearestStage(node) {
    const living = this.scene.alive.flatMap((alive, stage) => (alive[node] ? [stage] : []));
    return living.reduce(
      (best, stage) => (Math.abs(stage - this.stage) < Math.abs(best - this.stage) ? stage : best),
      living[0] ?? this.stage,
    );
  }

  see(item) {
    const { x, y, w, h } = this.placed;
    this.view.bring({ x: x[item], y: y[item], w: w[item], h: h[item] });
  }

  seek(query) {
    const input = document.getElementById("search"),
      isThere = (node) => this.panes.some((pane) => pane.alive[node]);
    if (input.value !== query) input.value = query;
    this.matches = matchesOf(this.scene, this.search.find(query, isThere));
    this.query = query;
    this.redraw();
    this.say();
  }

  match(step) {
    const { matches } = this;
    if (!matches.count) return;
    matches.current =
      matches.current < 0
        ? step > 0
          ? 0
          : matches.count - 1
        : (matches.current + step + matches.count) % matches.count;
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
  say() {
    this.onChange?.();
  }
}
