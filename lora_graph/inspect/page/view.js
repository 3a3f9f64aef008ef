// One transform for all panes, and the hands that move it: wheel, drag, pinch. Keys are in keys.js.

const LEAST = 0.0005,
  MOST = 6,
  READABLE = 0.6,
  CLICK = 4;

class View {
  /** `onClick(pane, point, isDouble)` and `onHover(pane, point)` get points of the sheet; `redraw` asks for a frame. */
  constructor(page) {
    Object.assign(this, { page, k: 1, x: 0, y: 0, pointers: new Map(), moved: 0, flight: 0 });
    for (const pane of page.panes) this.listen(pane);
  }

  listen(pane) {
    const { canvas } = pane;
    canvas.addEventListener("pointerdown", (event) => this.down(canvas, event));
    canvas.addEventListener("pointermove", (event) => this.move(pane, event));
    canvas.addEventListener("pointerup", (event) => this.up(pane, event));
    canvas.addEventListener("pointercancel", (event) => this.pointers.delete(event.pointerId));
    canvas.addEventListener("pointerleave", () => this.page.hover(pane, null));
    canvas.addEventListener("dblclick", (event) => this.page.open(pane, this.point(event)));
    canvas.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        const lines = event.deltaMode === 1 ? 24 : 1;
        if (event.shiftKey) this.pan(-(event.deltaX || event.deltaY) * lines, 0);
        else this.zoom(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0018)), event.offsetX, event.offsetY);
      },
      { passive: false },
    );
  }

  point(event) {
    return { x: (event.offsetX - this.x) / this.k, y: (event.offsetY - this.y) / this.k };
  }

  down(canvas, event) {
    canvas.setPointerCapture(event.pointerId);
    if (!this.pointers.size) this.moved = 0;
    this.pointers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
  }

  move(pane, event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return this.page.hover(pane, this.point(event));
    const now = { x: event.offsetX, y: event.offsetY },
      other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
    this.moved += Math.hypot(now.x - before.x, now.y - before.y);
    this.pointers.set(event.pointerId, now);
    if (other) {
      const spread = (p) => Math.max(Math.hypot(p.x - other.x, p.y - other.y), 1);
      this.zoom(spread(now) / spread(before), (now.x + other.x) / 2, (now.y + other.y) / 2);
      this.pan((now.x - before.x) / 2, (now.y - before.y) / 2);
    } else if (this.moved > CLICK) {
      pane.canvas.classList.add("moving");
      this.pan(now.x - before.x, now.y - before.y);
    }
  }

  up(pane, event) {
    const wasDown = this.pointers.delete(event.pointerId);
    pane.canvas.classList.remove("moving");
    if (wasDown && !this.pointers.size && this.moved <= CLICK && event.button === 0)
      this.page.click(pane, this.point(event));
  }

  set(k, x, y) {
    this.flight++;
    Object.assign(this, { k, x, y });
    this.page.redraw();
  }

  pan(dx, dy) {
    this.set(this.k, this.x + dx, this.y + dy);
  }

  zoom(factor, x = this.width / 2, y = this.height / 2) {
    const k = Math.min(Math.max(this.k * factor, LEAST), MOST),
      ratio = k / this.k;
    this.set(k, x - (x - this.x) * ratio, y - (y - this.y) * ratio);
  }

  get width() {
    return this.page.panes[0].canvas.clientWidth;
  }
  get height() {
    return this.page.panes[0].canvas.clientHeight;
  }

  /** Show all of the sheet; as a first view, or `isReadable`, from its top at a size that can be read. */
  fit(isReadable = false) {
    const { w, h } = this.page.extent(),
      side = 32,
      above = 28,
      below = 28;
    const wide = (this.width - 2 * side) / Math.max(w, 1),
      high = (this.height - above - below) / Math.max(h, 1);
    let k = Math.min(wide, high, 1.4);
    if (isReadable && k < READABLE) k = Math.min(Math.max(wide, READABLE), 1);
    k = Math.max(k, LEAST);
    const spare = this.height - above - below - h * k,
      middle = w * k > this.width ? this.page.first() : w / 2;
    this.set(k, this.width / 2 - middle * k, above + Math.max(spare, 0) / 2);
  }

  /** Bring a box into sight, softly where that is wanted; zoom in only as far as it takes to read it. */
  bring({ x, y, w, h }) {
    const k = Math.min(
      Math.max(this.k, 0.75),
      Math.max((this.width - 60) / w, LEAST),
      Math.max((this.height - 120) / h, LEAST),
      MOST,
    );
    this.fly(k, this.width / 2 - (x + w / 2) * k, this.height / 2 - (y + h / 2) * k);
  }

  fly(k, x, y) {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return this.set(k, x, y);
    const from = { k: this.k, x: this.x, y: this.y },
      start = performance.now(),
      flight = ++this.flight;
    const step = (now) => {
      if (flight !== this.flight) return;
      const t = Math.min((now - start) / 220, 1),
        share = t < 1 ? 1 - (1 - t) ** 3 : 1;
      for (const [name, goal] of [
        ["k", k],
        ["x", x],
        ["y", y],
      ])
        this[name] = from[name] + (goal - from[name]) * share;
      this.page.paint();
      if (t < 1) requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }
}
