// Controls, keys and the first drawing.

const $ = (id) => document.getElementById(id);
const press = (button, isOn) => button.setAttribute("aria-pressed", String(isOn));
const option = (value, textContent, properties) => make("option", { value: String(value), textContent, ...properties });

const wire = (page) => {
  const { scene, view } = page,
    hasStages = scene.stages.length > 1 && !page.isDiff,
    heats = ["", ...Object.keys(page.heats)];
  $("title").textContent = scene.name;
  $("title").title = scene.name;
  for (let depth = 0; depth <= scene.levels; depth++) {
    $("depth").append(
      option(
        depth,
        depth === scene.levels ? "all open" : depth ? `${depth} ${depth > 1 ? "levels" : "level"} open` : "closed",
      ),
    );
  }
  $("depth").append(option(-1, "as chosen", { hidden: true }));
  for (const name of heats) $("heat").append(option(name, name || "by op"));
  for (const [k, { name }] of scene.stages.entries()) $("against").append(option(k, name));
  $("slider").max = scene.stages.length - 1;
  scene.alive.forEach((_, k) => $("ticks").append(make("i", { className: scene.isNewIn(k) ? "full" : "" })));
  $("depth").disabled = !scene.levels;
  $("heat").disabled = heats.length < 2;
  $("constants").disabled = !scene.nodes.kind.includes(CONSTANT);
  $("weights").disabled = !scene.nodes.kind.includes(PARAMETER);
  $("compare").hidden = !hasStages;
  $("passes").hidden = !hasStages;
  page.all[1].canvas.closest(".pane").hidden = !page.isSplit;

  const acts = {
    depth: () => page.setDepth(Number($("depth").value)),
    heat: () => page.setHeat($("heat").value),
    weights: () => page.setKind(PARAMETER, !page.showsKind[PARAMETER]),
    constants: () => page.setKind(CONSTANT, !page.showsKind[CONSTANT]),
    compare: () => page.setSplit(!page.isSplit),
    places: () => page.setKept(!page.isKept),
    against: () => page.setAgainst(Number($("against").value)),
    slider: () => page.setStage(Number($("slider").value)),
    earlier: () => page.setStage(page.stage - 1),
    later: () => page.setStage(page.stage + 1),
    search: () => page.seek($("search").value),
    previous: () => page.match(-1),
    next: () => page.match(1),
    in: () => view.zoom(1.3),
    out: () => view.zoom(1 / 1.3),
    fit: () => view.fit(),
    theme: () => setTheme(page, document.documentElement.dataset.theme === "dark" ? "light" : "dark"),
    sidebar: () => {
      $("panel").hidden = !$("panel").hidden;
      page.say();
    },
    help: () => $("keys").showModal(),
  };
  for (const [id, act] of Object.entries(acts))
    $(id).addEventListener({ SELECT: "change", INPUT: "input" }[$(id).tagName] ?? "click", act);
  const nextHeat = () => page.setHeat(heats[(heats.indexOf($("heat").value) + 1) % heats.length]);
  return { ...acts, nextHeat };
};

const KEYS = {
  "+": "in",
  "=": "in",
  "-": "out",
  0: "fit",
  "[": "earlier",
  "]": "later",
  w: "weights",
  c: "constants",
  s: "compare",
  k: "places",
  h: "nextHeat",
  t: "theme",
  i: "sidebar",
  "?": "help",
};

const listenToKeys = (page, acts) =>
  document.addEventListener("keydown", (event) => {
    const { key, target } = event,
      isTyping = target.id === "search",
      isControl = target.matches("select, input, button");
    if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
    if (key === "Escape") {
      page.seek("");
      page.select(-1);
      page.panes[0].canvas.focus();
    } else if (isTyping) {
      if (key !== "Enter") return;
      page.match(event.shiftKey ? -1 : 1);
    } else if (key === "/") {
      $("search").focus();
      $("search").select();
    } else if (key.startsWith("Arrow") && !isControl) walk(page, key);
    else if (key === "Enter" && !isControl && page.selected >= 0 && page.scene.isModule(page.selected))
      page.toggle(page.selected);
    else if (key === "Backspace" && page.selected >= 0 && page.scene.parent[page.selected] > page.scene.root)
      page.visit(page.scene.parent[page.selected]);
    else if (key === "n" || key === "p") page.jump(page.changeAt + (key === "n" ? 1 : page.changeAt < 0 ? 0 : -1));
    else if (Object.hasOwn(KEYS, key)) {
      const button = $(KEYS[key]);
      if (!button?.disabled && !button?.hidden) acts[KEYS[key]]();
    } else return;
    event.preventDefault();
  });

/** The controls say what is. */
const tell = (page) => {
  const { scene, stage, matches } = page,
    now = scene.stages[stage],
    pane = page.panes.at(-1);
  $("depth").value = String(page.depth);
  $("heat").value = page.heat?.name ?? "";
  press($("weights"), page.showsKind[PARAMETER]);
  press($("constants"), page.showsKind[CONSTANT]);
  press($("compare"), page.isSplit);
  press($("places"), page.isKept);
  press($("sidebar"), !$("panel").hidden);
  $("against-label").hidden = !page.isSplit;
  $("against").value = String(page.against);
  $("slider").value = String(stage);
  $("slider").setAttribute("aria-valuetext", now.name);
  $("earlier").disabled = stage === 0;
  $("later").disabled = stage === scene.stages.length - 1;
  const total = (mark) => pane.marks[mark]?.[scene.root] ?? 0;
  $("pass").replaceChildren(
    make("b", { textContent: now.name }),
    ` ${stage + 1} of ${scene.stages.length} · ${count(total("added"))} new, ${count(total("removed"))} gone`,
  );
  $("found").textContent = !page.query?.trim()
    ? ""
    : matches.current < 0
      ? count(matches.count)
      : `${matches.current + 1} / ${matches.count}`;
  for (const id of ["previous", "next"]) $(id).disabled = !matches.count;
};

const setTheme = (page, theme) => {
  document.documentElement.dataset.theme = theme;
  page.palette = readPalette();
  page.redraw();
};

const start = () => {
  const preferred = matchMedia("(prefers-color-scheme: dark)");
  document.documentElement.dataset.theme = preferred.matches ? "dark" : "light";
  const data = JSON.parse($("data").textContent),
    isDiff = data.kind === "diff";
  $("pane1").closest(".pane").hidden = !isDiff;
  const page = new Page(new Scene(data)),
    acts = wire(page);
  preferred.addEventListener("change", () => setTheme(page, preferred.matches ? "dark" : "light"));
  listenToKeys(page, acts);
  page.onChange = () => tell(page);
  new ResizeObserver(() => page.redraw()).observe($("stage"));
  page.view.fit(true);
  page.say();
  return page;
};
