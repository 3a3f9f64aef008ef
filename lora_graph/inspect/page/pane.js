// A pane shows one stage: what is alive in it, what is new, what has gone since another stage.

const ALIVE = 1,
  NEW = 2,
  GONE = 3;
const MARKS = ["added", "removed", "changed", "fused", "weights"];

class Pane {
  constructor(scene, index) {
    this.scene = scene;
    this.canvas = document.getElementById(`pane${index}`);
    this.name = document.getElementById(`name${index}`);
    this.stage = 0;
  }

  /**
   * Show `stage` against stage `other` (-1: none): what is only here is `own` ("added" or "removed"); with `ghosts`,
   * what is only there is drawn faintly as well. In a diff, its marks count and not these.
   */
  show(stage, other, own, ghosts) {
    const { scene } = this;
    Object.assign(this, { stage, other, own });
    this.alive = scene.alive[stage];
    const there = other < 0 ? null : scene.alive[other];
    this.ghosts = ghosts ? there : null;
    this.markOf = (node) => {
      if (scene.marks) return this.alive[node] ? scene.mark(node) : "";
      if (!there || there[node] === this.alive[node]) return "";
      return this.alive[node] ? own : this.ghosts ? "removed" : "";
    };
  }

  /** Count what each module shows and which marks are in it, over the nodes that are drawn at all. */
  tally(isShown) {
    const { scene } = this,
      { n, items } = scene,
      counted = [(this.inside = new Uint32Array(items))];
    this.marks = {};
    for (let i = 0; i < n; i++) {
      if (!isShown(i)) continue;
      if (this.isThere(i)) this.inside[i] = 1;
      const mark = this.markOf(i);
      if (!mark) continue;
      if (!this.marks[mark]) counted.push((this.marks[mark] = new Uint32Array(items)));
      this.marks[mark][i] = 1;
    }
    for (const counts of counted) scene.addUp(counts);
  }

  /** How each piece of a line is drawn: not at all, alive, new or gone. */
  follow(wires) {
    const { scene } = this,
      then = this.other < 0 ? null : scene.edgeAlive[this.other];
    this.states = wires.taken(scene.edgeAlive[this.stage], then).map((bits) => {
      if (bits & 1) return !then || bits & 2 ? ALIVE : this.own === "added" ? NEW : GONE;
      return bits && this.ghosts ? GONE : 0;
    });
  }

  isThere(node) {
    return this.alive[node] === 1 || (this.ghosts !== null && this.ghosts[node] === 1);
  }
  shows(item) {
    return this.inside[item] > 0;
  }
  isGhost(item) {
    return !this.scene.isModule(item) && this.alive[item] === 0;
  }

  /** [mark, how many] of an item, in the order of the legend. */
  marksIn(item) {
    return MARKS.filter((mark) => this.marks[mark]?.[item]).map((mark) => [mark, this.marks[mark][item]]);
  }
}
