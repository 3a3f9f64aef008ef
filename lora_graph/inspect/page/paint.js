// One pane on its canvas. What is out of sight is not drawn, and what is too small to read is drawn without its text.

class Painter {
  constructor(page, pane) {
    const ratio = devicePixelRatio || 1,
      { canvas } = pane,
      { view } = page;
    const width = canvas.clientWidth,
      height = canvas.clientHeight;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    Object.assign(this, {
      page,
      pane,
      scene: page.scene,
      placed: page.placed,
      look: page.palette,
      k: view.k,
      ctx: canvas.getContext("2d"),
    });
    this.left = -view.x / view.k;
    this.top = -view.y / view.k;
    this.right = this.left + width / view.k;
    this.bottom = this.top + height / view.k;
    this.ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.ctx.fillStyle = this.look.ground;
    this.ctx.fillRect(0, 0, width, height);
    this.ctx.setTransform(ratio * view.k, 0, 0, ratio * view.k, ratio * view.x, ratio * view.y);
    this.detail = view.k * 12 >= 5.5 ? 2 : view.k * 40 >= 5 ? 1 : 0;
  }

  isInSight(item, margin = 12) {
    const { x, y, w, h } = this.placed;
    return (
      x[item] - margin < this.right &&
      x[item] + w[item] + margin > this.left &&
      y[item] - margin < this.bottom &&
      y[item] + h[item] + margin > this.top
    );
  }

  paint() {
    const frames = [],
      boxes = [];
    for (const item of this.placed.order) {
      if (item === this.scene.root || !this.pane.shows(item) || !this.isInSight(item)) continue;
      (this.placed.isFrame(item) ? frames : boxes).push(item);
    }
    for (const item of frames) this.frame(item);
    this.lines();
    for (const item of boxes) this.box(item);
    for (const item of boxes) this.rings(item);
    for (const item of frames) this.rings(item);
    if (this.detail < 2) this.signposts(frames);
    this.ctx.globalAlpha = 1;
    return boxes.length;
  }

  round(item, radius, grow = 0, shift = 0) {
    const { x, y, w, h } = this.placed;
    this.ctx.beginPath();
    this.ctx.roundRect(
      x[item] - grow + shift,
      y[item] - grow + shift,
      w[item] + 2 * grow,
      h[item] + 2 * grow,
      Math.min(radius + grow, h[item] / 2 + grow),
    );
  }

  frame(item) {
    const { ctx, look, placed, scene } = this;
    this.round(item, 10);
    ctx.fillStyle = look["frame-fill"];
    ctx.fill();
    ctx.strokeStyle = this.page.adapters[item] === scene.size(item) ? look.adapter : look.frame;
    ctx.lineWidth = Math.max(1, 0.6 / this.k);
    ctx.stroke();
    if (this.detail < 2) return;
    ctx.font = BOLD;
    ctx.fillStyle = look.soft;
    ctx.textAlign = "left";
    ctx.textBaseline = "middle";
    ctx.fillText("⊟", placed.x[item] + 10, placed.y[item] + 13);
    ctx.fillText(shorten(ctx, scene.title(item), placed.w[item] - 40), placed.x[item] + 26, placed.y[item] + 13);
  }

  lines() {
    const { ctx, look, page, pane } = this,
      { pieces } = page.wires,
      tiny = 0.4 / this.k,
      batches = { edge: [], adapter: [], removed: [], added: [] };
    for (let i = 0; i < pieces.length; i++) {
      const piece = pieces[i],
        state = pane.states[i];
      if (!state || piece.y0 > this.bottom || piece.y1 < this.top || piece.y1 - piece.y0 < tiny) continue;
      if (Math.min(piece.x0, piece.x1) > this.right || Math.max(piece.x0, piece.x1) < this.left) continue;
      batches[state === ALIVE ? (piece.isAdapter ? "adapter" : "edge") : state === NEW ? "added" : "removed"].push(
        piece,
      );
    }
    for (const [style, found] of Object.entries(batches)) if (found.length) this.batch(style, found, look[style]);
    const near = [page.selected, page.hovered].filter((item) => item >= 0);
    if (near.length) this.batch("accent", this.around(near), look.accent);
    ctx.setLineDash([]);
    ctx.globalAlpha = 1;
  }

  /** The pieces of all lines from and to some boxes. */
  around(items) {
    const { page, pane } = this,
      { wires } = page,
      found = new Set();
    for (const line of wires.ends) {
      if (!pane.states[line.piece] || !(items.includes(line.a) || items.includes(line.b))) continue;
      for (const e of line.edges)
        for (const piece of wires.way(e)) if (pane.states[piece]) found.add(wires.pieces[piece]);
    }
    return [...found];
  }

  batch(style, pieces, colour) {
    const { ctx } = this;
    ctx.beginPath();
    for (const piece of pieces) trace(ctx, piece, this.detail > 0);
    ctx.strokeStyle = ctx.fillStyle = colour;
    ctx.globalAlpha = style === "removed" ? 0.7 : style === "edge" && !this.detail ? 0.6 : 1;
    ctx.lineWidth = Math.max(style === "edge" ? 1.2 : 1.8, 0.7 / this.k);
    ctx.setLineDash(style === "removed" ? [5, 4] : []);
    ctx.stroke();
    if (this.k < 0.35) return;
    ctx.beginPath();
    for (const { x1, y1, line } of pieces) {
      if (!line) continue;
      ctx.moveTo(x1, y1);
      ctx.lineTo(x1 - 3.5, y1 - 7);
      ctx.lineTo(x1 + 3.5, y1 - 7);
    }
    ctx.fill();
  }

  /** The fill and the ink of a box. */
  colours(item) {
    const { look, page, scene } = this;
    if (page.heat) {
      const value = page.heat.total[item];
      if (!(value > 0)) return [look.surface, look.ink, look.soft];
      const colour = shade(page.heat.share(value)),
        ink = isBright(colour) ? "#15181d" : "#ffffff";
      return [rgb(colour), ink, ink];
    }
    if (page.adapters[item] && (!scene.isModule(item) || page.adapters[item] === scene.size(item)))
      return [look["adapter-fill"], look.ink, look.soft];
    return [
      !scene.isModule(item) && scene.kind(item) > INPUT && scene.kind(item) < OUTPUT ? look.raised : look.surface,
      look.ink,
      look.soft,
    ];
  }

  box(item) {
    const { ctx, look, page, pane, placed, scene } = this,
      { x, y, w, h } = placed;
    const isModule = scene.isModule(item),
      kind = isModule ? OP : scene.kind(item),
      isGone = pane.isGhost(item);
    const tone = page.adapters[item] ? look.adapter : isModule ? look.border : look[scene.category(item)];
    const [fill, ink, soft] = this.colours(item);
    ctx.globalAlpha = (isGone ? 0.5 : 1) * (page.matches.count && !page.matches.inside[item] ? 0.3 : 1);
    if (!this.detail) {
      ctx.fillStyle = page.heat ? fill : tone;
      ctx.fillRect(x[item], y[item], w[item], h[item]);
      return;
    }
    const radius = kind === INPUT || kind === OUTPUT ? 20 : kind ? 3 : 7;
    if (isModule) {
      this.round(item, radius, 0, 4);
      ctx.fillStyle = look.raised;
      ctx.fill();
      ctx.strokeStyle = look.frame;
      ctx.lineWidth = 1;
      ctx.stroke();
    }
    this.round(item, radius);
    ctx.fillStyle = fill;
    ctx.fill();
    ctx.setLineDash(isGone ? [4, 3] : []);
    ctx.strokeStyle = page.heat ? look.frame : kind && !page.adapters[item] ? look.leaf : tone;
    ctx.lineWidth = kind === INPUT || kind === OUTPUT ? 1.8 : 1.1;
    ctx.stroke();
    ctx.setLineDash([]);
    if (!kind && !page.heat) {
      ctx.save();
      ctx.clip();
      ctx.fillStyle = tone;
      ctx.fillRect(x[item], y[item], 5, h[item]);
      ctx.restore();
    }
    if (this.detail < 2) return;
    const middle = x[item] + w[item] / 2 + (kind ? 0 : 2),
      room = w[item] - 12;
    ctx.textAlign = "center";
    ctx.textBaseline = "middle";
    ctx.fillStyle = ink;
    ctx.font = kind === CONSTANT ? "italic " + BOLD : BOLD;
    const [first, second] = isModule ? [scene.title(item), `${count(pane.inside[item])} nodes`] : scene.lines(item);
    ctx.fillText(
      shorten(ctx, first, (isModule ? room - 30 : room) / CONDENSED),
      middle,
      y[item] + h[item] / 2 - (second ? 7 : 0),
      isModule ? room - 30 : room,
    );
    ctx.fillStyle = soft;
    ctx.font = PLAIN;
    if (second) ctx.fillText(shorten(ctx, second, room / CONDENSED), middle, y[item] + h[item] / 2 + 8, room);
    if (isModule) {
      ctx.font = BOLD;
      ctx.fillText("⊞", x[item] + w[item] - 13, y[item] + 13);
    }
  }

  /** What is around a box: marks of passes and diffs, matches of the search, the selection. */
  rings(item) {
    const { ctx, look, page, pane, placed, scene } = this,
      { x, y, w } = placed;
    const isLeaf = !placed.isFrame(item),
      radius = isLeaf ? (scene.kind(item) === INPUT || scene.kind(item) === OUTPUT ? 20 : 7) : 10;
    const thin = Math.max(1, 0.8 / this.k);
    ctx.globalAlpha = 1;
    const ring = (colour, grow, width) => {
      this.round(item, radius, grow);
      ctx.strokeStyle = colour;
      ctx.lineWidth = width * thin;
      ctx.stroke();
    };
    const marks = isLeaf ? pane.marksIn(item) : [];
    if (marks.length) ring(look[marks[0][0]], 1, 2);
    if (this.detail === 2) {
      let place = x[item] + w[item] - 2;
      for (const [mark, number] of marks)
        place -= this.badge(place, y[item] - 1, mark, number, scene.isModule(item)) + 2;
    }
    if (isLeaf && page.matches.inside[item]) ring(look.found, 3, 2.5);
    if (item === page.hovered && item !== page.selected) ring(look.accent, 3, 1.2);
    if (item === page.selected) ring(look.accent, 4, 3);
  }

  badge(right, y, mark, number, isCounted) {
    const { ctx, look } = this,
      text = isCounted ? `${SIGNS[mark]} ${count(number)}` : SIGNS[mark];
    ctx.font = `700 11px ${FONT}`;
    ctx.textAlign = "center";
    ctx.textBaseline = "middle";
    const width = Math.max(16, ctx.measureText(text).width + 9);
    ctx.beginPath();
    ctx.roundRect(right - width, y - 8, width, 16, 8);
    ctx.fillStyle = look[mark];
    ctx.fill();
    ctx.fillStyle = look.surface;
    ctx.fillText(text, right - width / 2, y + 0.5);
    return width;
  }

  /** From far away: names of modules large enough to carry one, outer ones first, none over another. */
  signposts(frames) {
    const { ctx, look, placed, scene, k } = this,
      taken = [];
    ctx.font = `600 ${11 / k}px ${FONT}`;
    ctx.textAlign = "center";
    ctx.textBaseline = "middle";
    for (const item of frames) {
      if (placed.w[item] * k < 60 || placed.h[item] * k < 26 || taken.length > 60) continue;
      const text = shorten(ctx, scene.title(item), placed.w[item] - 12 / k),
        width = ctx.measureText(text).width + 10 / k;
      const x = placed.x[item] + placed.w[item] / 2,
        y = placed.y[item] + 9 / k,
        height = 16 / k;
      if (taken.some((other) => Math.abs(other.x - x) < (other.width + width) / 2 && Math.abs(other.y - y) < height))
        continue;
      taken.push({ x, y, width });
      ctx.beginPath();
      ctx.roundRect(x - width / 2, y - height / 2, width, height, 5 / k);
      ctx.fillStyle = look.surface;
      ctx.globalAlpha = 0.88;
      ctx.fill();
      ctx.globalAlpha = 1;
      ctx.fillStyle = look.ink;
      ctx.fillText(text, x, y);
    }
  }
}
