// The side panel: what is known of the selected box, or of everything. Text of the model is set as text, not as markup.

const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

const MANY = 40;
const EXPLAINED = {
  added: "only on the right",
  removed: "only on the left",
  changed: "changed",
  fused: "several fused into one",
  weights: "other weights",
};

class Panel {
  constructor(page) {
    this.page = page;
    this.scene = page.scene;
    this.element = document.getElementById("panel");
  }

  show(item) {
    const parts = item < 0 ? this.overview() : this.scene.isModule(item) ? this.module(item) : this.node(item);
    this.element.replaceChildren(...parts.flat().filter(Boolean));
    this.element.scrollTop = 0;
  }

  section(title, ...content) {
    return content.length ? [make("h3", { textContent: title }), ...content] : [];
  }

  table(title, pairs) {
    if (!pairs.length) return [];
    const rows = pairs.flatMap(([name, text]) => [
      make("dt", { textContent: visible(name) }),
      make("dd", { textContent: visible(text) }),
    ]);
    return this.section(title, make("dl", {}, ...rows));
  }

  chip(text, colour) {
    const chip = make("span", { className: "chip", textContent: text });
    chip.style.color = `var(--${colour})`;
    return chip;
  }

  /** A link that leads to a node or module, whatever it takes to see it. */
  link(item, text = this.scene.title(item)) {
    const act = () => this.page.visit(item);
    const link = make("a", { textContent: text, tabIndex: 0, role: "link", onclick: act });
    link.onkeydown = (event) => {
      if (event.key === "Enter") {
        event.stopPropagation();
        act();
      }
    };
    return link;
  }

  list(title, items, row) {
    const list = make("ul", {}, ...items.slice(0, MANY).map(row));
    if (items.length > MANY) {
      const more = make("button", { textContent: `${count(items.length - MANY)} more` });
      more.onclick = () => {
        list.append(...items.slice(MANY).map(row));
        more.remove();
      };
      return this.section(title, list, more);
    }
    return items.length ? this.section(title, list) : [];
  }

  places(module) {
    const trail = [module, ...this.scene.around(module)].filter((item) => item > this.scene.root).reverse();
    return trail.length
      ? make("p", { className: "soft" }, "in ", ...trail.flatMap((item, k) => [k ? " › " : "", this.link(item)]))
      : null;
  }

  cost(item) {
    const { page } = this;
    return Object.entries(page.heats)
      .filter(([, heat]) => heat.total[item] > 0)
      .map(([name, heat]) => {
        const share = heat.sum ? ` (${((100 * heat.total[item]) / heat.sum).toPrecision(3)} %)` : "";
        return [name, measure(heat.total[item], heat.unit) + share];
      });
  }

  node(node) {
    const { scene, page } = this,
      { from, to, operand } = scene.edges,
      isDrawn = (e) => page.panes.some((pane) => scene.edgeAlive[pane.stage][e]);
    const row = (end) => (e) =>
      make(
        "li",
        {},
        make("small", { textContent: end === from ? operand[e] : "" }),
        this.link(end[e]),
        make("span", { className: "soft", textContent: scene.type(end[e]) }),
      );
    const mark = scene.mark(node) || page.panes.map((pane) => pane.markOf(node)).find(Boolean);
    const operands = [...scene.into(node)].filter(isDrawn).sort((a, b) => operand[a] - operand[b]);
    const details = scene.pairs("details", node),
      rules = details.filter(([name]) => name === "rules").map(([, text]) => text);
    const sources = scene.sources[node] ?? [];
    return [
      make("h2", { textContent: scene.title(node) }),
      scene.label(node) && scene.label(node) !== scene.title(node)
        ? make("p", { className: "soft", textContent: scene.label(node) })
        : null,
      make(
        "p",
        {},
        this.chip(scene.kind(node) ? KINDS[scene.kind(node)] : scene.category(node), scene.category(node)),
        ...(scene.isAdapter(node) ? [this.chip("adapter", "adapter")] : []),
        ...(mark ? [this.chip(mark, mark)] : []),
      ),
      make("p", {}, make("code", { textContent: scene.type(node) })),
      this.places(scene.parent[node]),
      this.table("Attributes", scene.pairs("attributes", node)),
      this.list("Operands", operands, row(from)),
      this.list("Users", [...scene.outOf(node)].filter(isDrawn), row(to)),
      this.table("Cost", this.cost(node)),
      this.table(
        "Details",
        details.filter(([name]) => name !== "rules"),
      ),
      rules.length || sources.length
        ? this.section(
            "Why it is there",
            ...(rules.length ? [make("p", {}, "made by ", make("b", { textContent: rules.join(", ") }))] : []),
            ...(sources.length
              ? [
                  make("p", { className: "soft", textContent: "from" }),
                  make(
                    "ul",
                    {},
                    ...sources.map((source) =>
                      make(
                        "li",
                        {},
                        this.link(source),
                        make("span", { className: "soft", textContent: scene.type(source) }),
                      ),
                    ),
                  ),
                ]
              : []),
          )
        : null,
    ];
  }

  module(item) {
    const { scene, page } = this,
      isOpen = page.isOpen(item);
    const weights = [...scene.inside(item)].filter((node) => scene.kind(node) === PARAMETER).length;
    const toggle = make("button", { textContent: isOpen ? "Close" : "Open" });
    toggle.onclick = () => page.toggle(item);
    const facts = [
      ["nodes", count(scene.size(item))],
      ["weights", count(weights)],
    ];
    if (page.adapters[item]) facts.push(["of an adapter", count(page.adapters[item])]);
    return [
      make("h2", { textContent: scene.title(item) }),
      make("p", {}, this.chip("module", "other"), ...(page.adapters[item] ? [this.chip("adapter", "adapter")] : [])),
      this.places(scene.parent[item]),
      make("p", {}, toggle),
      this.table("Contents", facts),
      this.table("Cost", this.cost(item)),
      this.ops(scene.inside(item)),
    ];
  }

  /** How often each op occurs; a click searches for it. */
  ops(nodes) {
    const { scene, page } = this,
      counts = new Map(),
      { alive } = page.panes.at(-1);
    for (const node of nodes)
      if (alive[node] && scene.kind(node) === OP) counts.set(scene.op(node), (counts.get(scene.op(node)) ?? 0) + 1);
    const sorted = [...counts].sort((a, b) => b[1] - a[1]),
      most = sorted[0]?.[1];
    return this.section(
      "Ops",
      ...sorted.map(([op, number]) => {
        const bar = make("i"),
          row = make(
            "button",
            { className: "count", title: `Search for ${op}` },
            bar,
            make("small", { textContent: count(number) }),
            op,
          );
        bar.style.width = `${(100 * number) / most}%`;
        bar.style.background = `var(--${CATEGORY.get(op) ?? "other"})`;
        row.onclick = () => page.seek(`op:${op.includes(" ") ? `"${op}"` : op}`);
        return row;
      }),
    );
  }

  overview() {
    const { scene, page } = this,
      stage = page.panes.at(-1).stage,
      { changes } = scene;
    return [
      make("h2", { textContent: scene.name }),
      this.table("Summary", scene.summary),
      changes.length
        ? this.list(
            `Changes (${count(changes.length)})`,
            changes.map((_, k) => k),
            (k) => this.change(k),
          )
        : null,
      scene.subject === "diff" ? null : this.table(`Pass “${scene.stages[stage].name}”`, scene.stages[stage].facts),
      this.ops(scene.inside(scene.root)),
    ];
  }

  change(k) {
    const [mark, text] = this.scene.changes[k],
      sign = make("b", { textContent: SIGNS[mark] ?? "•" });
    sign.style.color = `var(--${mark})`;
    const link = make("a", { textContent: visible(text), tabIndex: 0, role: "link", onclick: () => this.page.jump(k) });
    link.onkeydown = (event) => {
      if (event.key === "Enter") {
        event.stopPropagation();
        this.page.jump(k);
      }
    };
    return make("li", {}, make("small", {}, sign), link);
  }
}
