// Walking over the drawing with the arrow keys.

const across = (placed, item) => placed.x[item] + placed.w[item] / 2;
const nearest = (placed, item, others) =>
  others.reduce(
    (best, other) =>
      best < 0 ||
      Math.abs(across(placed, other) - across(placed, item)) < Math.abs(across(placed, best) - across(placed, item))
        ? other
        : best,
    -1,
  );

/** Where an arrow leads from `item`: along an edge, to the neighbour in the row, or -1. */
const neighbour = (page, item, key) => {
  const { placed, scene, wires } = page,
    pane = page.panes.find((one) => one.shows(item)) ?? page.panes[0];
  const ends = (near) => wires.ends.filter((line) => pane.states[line.piece] && line[near] === item);
  if (key === "ArrowLeft" || key === "ArrowRight") {
    const { y, h } = placed,
      side = key === "ArrowLeft" ? -1 : 1;
    const isBeside = (other) =>
      other !== item && pane.shows(other) && y[other] < y[item] + h[item] && y[other] + h[other] > y[item];
    return nearest(
      placed,
      item,
      scene.children[scene.parent[item] - scene.n].filter(
        (other) => isBeside(other) && side * (across(placed, other) - across(placed, item)) > 0,
      ),
    );
  }
  if (key === "ArrowDown" && placed.isFrame(item))
    return placed.order.find((other) => scene.parent[other] === item && pane.shows(other)) ?? -1;
  if (key === "ArrowDown")
    return nearest(
      placed,
      item,
      ends("a").map(({ b }) => b),
    );
  const operand = ({ edges }) => Math.min(...edges.map((e) => scene.edges.operand[e]));
  return ends("b").reduce((best, line) => (best && operand(best) <= operand(line) ? best : line), null)?.a ?? -1;
};

const walk = (page, key) => {
  const { placed, scene, selected } = page,
    isSeen = (item) => item !== scene.root && page.panes.some((pane) => pane.shows(item));
  const from = placed.holds(selected) ? selected : -1;
  const next =
    from < 0 ? (placed.order.find((item) => isSeen(item) && !placed.isFrame(item)) ?? -1) : neighbour(page, from, key);
  if (next < 0) return;
  page.select(next);
  const { view } = page,
    left = placed.x[next] * view.k + view.x,
    top = placed.y[next] * view.k + view.y;
  const isInView =
    left > 20 &&
    top > 40 &&
    left + placed.w[next] * view.k < view.width - 20 &&
    top + placed.h[next] * view.k < view.height - 60;
  if (!isInView || view.k < 0.4) page.see(next);
};
