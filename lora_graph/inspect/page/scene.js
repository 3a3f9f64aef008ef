// The embedded columns as a scene: nodes, then modules, numbered in one row as "items".

const OP = 0,
  INPUT = 1,
  PARAMETER = 2,
  CONSTANT = 3,
  OUTPUT = 4;
const KINDS = ["op", "input", "weight", "constant", "output"];

// Characters that do not show themselves, or that turn text around, are written as what they are.
const UNSEEN = /(?![\n\t])[\p{Cc}\p{Cf}\p{Cs}\u2028\u2029]/gu;
const visible = (text) =>
  String(text).replace(UNSEEN, (sign) => "\\u" + sign.codePointAt(0).toString(16).padStart(4, "0"));

/** Positions in `values` by what stands there: a function from a group to its positions, in ascending order. */
const grouped = (values, groups) => {
  const start = new Uint32Array(groups + 1);
  for (const group of values) start[group + 1]++;
  for (let g = 0; g < groups; g++) start[g + 1] += start[g];
  const next = start.slice(),
    order = new Uint32Array(values.length);
  for (let i = 0; i < values.length; i++) order[next[values[i]]++] = i;
  return (group) => order.subarray(start[group], start[group + 1]);
};

/** Which of `size` things are in some of the half-open `ranges`. */
const within = (ranges, size) => {
  const found = new Uint8Array(size);
  for (const [start, stop] of ranges) found.fill(1, start, stop);
  return found;
};

class Scene {
  constructor(data) {
    const { nodes, blocks, edges, points, stages, spacing } = data;
    Object.assign(this, { nodes, blocks, edges, points, spacing, n: nodes.op.length, m: blocks.parent.length });
    this.items = this.n + this.m;
    this.root = this.n;
    this.name = visible(data.name);
    this.subject = data.kind ?? "inspect";
    this.summary = data.summary ?? [];
    this.changes = data.changes ?? [];
    this.metrics = data.metrics ?? {};
    this.sparse = { attributes: data.attributes ?? {}, details: data.details ?? {} };
    this.sources = data.sources ?? {};
    this.strings = data.strings.map(visible);
    this.marks = this.subject === "diff" ? (data.marks ?? {}) : null;
    this.adapter = within(
      (data.adapter ?? []).map((node) => [node, node + 1]),
      this.n,
    );
    this.parent = Int32Array.from([...nodes.block, ...blocks.parent], (block) => (block < 0 ? -1 : this.n + block));
    this.depth = blocks.depth;
    this.levels = blocks.depth.reduce((most, level) => Math.max(most, level), 0);
    this.sizes = this.addUp(new Uint32Array(this.items).fill(1, 0, this.n));
    this.children = this.childLists();
    this.stages = stages.map(({ name, facts = [] }) => ({ name: visible(name), facts }));
    this.alive = stages.map((stage) => within(stage.nodes, this.n));
    this.edgeAlive = stages.map((stage) => within(stage.edges, edges.from.length));
    this.into = grouped(edges.to, this.n);
    this.outOf = grouped(edges.from, this.n);
  }

  /** The items of each module, from the top to the bottom and from left to right. */
  childLists() {
    const { n, nodes, blocks } = this,
      lists = Array.from({ length: this.m }, () => []);
    const at = (item, axis) => (item < n ? nodes[axis][item] : blocks[axis][item - n]);
    for (let i = 0; i < this.items; i++) if (i !== this.root) lists[this.parent[i] - n].push(i);
    for (const list of lists) list.sort((a, b) => at(a, "y") - at(b, "y") || at(a, "x") - at(b, "x"));
    return lists;
  }

  /** Whether stage `k` has other nodes than the one before. */
  isNewIn(k) {
    return k > 0 && this.alive[k].some((isAlive, node) => isAlive !== this.alive[k - 1][node]);
  }

  /** How many nodes an item is. */
  size(item) {
    return this.sizes[item];
  }
  isModule(item) {
    return item >= this.n;
  }
  op(node) {
    return this.strings[this.nodes.op[node]];
  }
  label(node) {
    return this.strings[this.nodes.label[node]];
  }
  type(node) {
    return this.strings[this.nodes.type[node]];
  }
  kind(node) {
    return this.nodes.kind[node];
  }
  mark(node) {
    return this.marks?.[node] ?? "";
  }
  isAdapter(node) {
    return this.adapter[node] === 1;
  }
  category(node) {
    return this.kind(node) ? "leaf" : (CATEGORY.get(this.op(node)) ?? "other");
  }

  /** The full name of an item: a module's own, an op's name, what a leaf is called. */
  title(item) {
    if (this.isModule(item)) return item === this.root ? this.name : this.strings[this.blocks.label[item - this.n]];
    return (this.kind(item) && this.label(item)) || this.op(item);
  }

  /** The two lines of a box, as Python cut them. */
  lines(node) {
    return [this.strings[this.nodes.title[node]], this.strings[this.nodes.subtitle[node]]];
  }

  /** The modules around an item, the innermost first, without the root. */
  around(item) {
    const found = [];
    for (let up = this.parent[item]; up > this.root; up = this.parent[up]) found.push(up);
    return found;
  }

  /** The path of the module that a node belongs to. */
  path(node) {
    return this.strings[this.nodes.module[node]];
  }

  /** What is known of a node under `name`, "attributes" or "details": [label, text] pairs. */
  pairs(name, node) {
    return (this.sparse[name][node] ?? []).map(([label, text]) => [this.strings[label], this.strings[text]]);
  }

  /** All nodes inside an item. */
  *inside(item) {
    const open = [item];
    while (open.length) {
      const top = open.pop();
      if (!this.isModule(top)) yield top;
      else for (const child of this.children[top - this.n]) open.push(child);
    }
  }

  /** Add what `totals` says of nodes to the modules around them. */
  addUp(totals) {
    for (let i = 0; i < this.n; i++) totals[this.parent[i]] += totals[i];
    for (let j = this.m - 1; j > 0; j--) totals[this.parent[this.n + j]] += totals[this.n + j];
    return totals;
  }
}

/** A number as people read it: 1,234 or 5.6 M. */
const count = (value) => Math.round(value).toLocaleString("en-US");
const PREFIXES = [
  [1e15, "P"],
  [1e12, "T"],
  [1e9, "G"],
  [1e6, "M"],
  [1e3, "k"],
  [1, ""],
  [1e-3, "m"],
  [1e-6, "µ"],
  [1e-9, "n"],
];
const measure = (value, unit) => {
  if (!value) return `0 ${unit}`;
  const [scale, prefix] = PREFIXES.find(([size]) => Math.abs(value) >= size) ?? PREFIXES.at(-1);
  return `${(value / scale).toPrecision(3).replace(/\.?0+$/, "")} ${prefix}${unit}`;
};
