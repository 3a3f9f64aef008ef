// Finding nodes by words: all of them have to occur in the name, op, type, attributes or module of a node.

const FIELDS = {
  op: (scene, node) => scene.op(node),
  name: (scene, node) => scene.label(node),
  type: (scene, node) => scene.type(node),
  shape: (scene, node) => scene.type(node),
  attr: (scene, node) => scene.pairs("attributes", node).flat().join(" "),
  in: (scene, node) => scene.path(node),
};

/** "op:MatMul 768" as [["op", "matmul"], ["", "768"]]; a word may stand in quotes. */
const termsOf = (query) =>
  [...query.toLowerCase().matchAll(/(?:(op|name|type|shape|attr|in):)?(?:"([^"]*)"|(\S+))/g)]
    .map(([, field = "", quoted, word]) => [field, quoted ?? word])
    .filter(([, word]) => word);

class Search {
  constructor(scene) {
    this.scene = scene;
    this.texts = {};
  }

  /** What there is to search, by field; "" is everything. Made when it is first needed. */
  text(field) {
    const { scene } = this;
    return (this.texts[field] ??= Array.from({ length: scene.n }, (_, node) =>
      (field
        ? FIELDS[field](scene, node)
        : ["op", "name", "type", "attr", "in"].map((name) => FIELDS[name](scene, node)).join("\n")
      ).toLowerCase(),
    ));
  }

  /** The nodes in which all words of `query` occur and that `isThere`, from the top of the sheet to its end. */
  find(query, isThere) {
    const terms = termsOf(query);
    if (!terms.length) return [];
    const found = [];
    for (let node = 0; node < this.scene.n; node++) {
      if (isThere(node) && terms.every(([field, word]) => this.text(field)[node].includes(word))) found.push(node);
    }
    return found;
  }
}

/** Matches as the drawing needs them: which of them is the current one, and in which boxes they are. */
const matchesOf = (scene, nodes) => {
  const inside = new Uint32Array(scene.items);
  for (const node of nodes) inside[node] = 1;
  return { nodes, count: nodes.length, current: -1, inside: scene.addUp(inside) };
};
