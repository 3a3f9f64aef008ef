// What the colours and signs on the drawing mean.

const swatch = (colour) => {
  const box = make("i");
  box.style.background = colour;
  return box;
};

const drawLegend = (page) => {
  const { scene, heat, panes } = page,
    entries = [];
  if (heat) {
    const bar = make("canvas", { width: 160, height: 1 }),
      ctx = bar.getContext("2d");
    for (let i = 0; i < 160; i++) {
      ctx.fillStyle = rgb(shade(i / 159));
      ctx.fillRect(i, 0, 1, 1);
    }
    entries.push(
      make(
        "span",
        {},
        `${heat.name}: `,
        measure(heat.most / 1e4, heat.unit),
        bar,
        measure(heat.most, heat.unit),
        " (logarithmic)",
      ),
    );
  } else {
    const used = new Set();
    for (const item of page.placed.order)
      if (!scene.isModule(item) && scene.kind(item) === OP) used.add(scene.category(item));
    for (const name of [...Object.keys(CATEGORIES), "other"])
      if (used.has(name)) entries.push(make("span", {}, swatch(`var(--${name})`), name));
  }
  if (page.adapters[scene.root]) entries.push(make("span", {}, swatch("var(--adapter)"), "adapter"));
  const marks = MARKS.filter((mark) => panes.some((pane) => pane.marks[mark]?.[scene.root]));
  for (const mark of marks) {
    const sign = make("b", { textContent: SIGNS[mark] });
    sign.style.color = `var(--${mark})`;
    const meaning = page.isSplit ? EXPLAINED[mark] : mark === "added" ? "new in this pass" : "gone with this pass";
    entries.push(make("span", {}, sign, meaning));
  }
  document.getElementById("legend").replaceChildren(...entries);
  document.getElementById("legend").hidden = !entries.length;
};
