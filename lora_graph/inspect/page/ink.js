// Colours and letters on the canvas.

const NAMES = [
  "ground",
  "surface",
  "raised",
  "line",
  "ink",
  "soft",
  "accent",
  "found",
  "edge",
  "frame",
  "frame-fill",
  "border",
  "contraction",
  "activation",
  "normalization",
  "elementwise",
  "shape",
  "reduction",
  "other",
  "leaf",
  "adapter",
  "adapter-fill",
  "added",
  "removed",
  "changed",
  "fused",
  "weights",
];
const SIGNS = { added: "+", removed: "−", changed: "≠", fused: "⋈", weights: "Δ" };
const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif';
/** How narrow letters may become before a text is cut: the width of a box was reckoned without knowing the font. */
const CONDENSED = 0.82;
const BOLD = `600 12px ${FONT}`,
  PLAIN = `11px ${FONT}`;

/** Viridis in nine steps: even in lightness, and the same for eyes that see fewer colours. */
const SCALE = [
  [68, 1, 84],
  [71, 44, 122],
  [59, 81, 139],
  [44, 113, 142],
  [33, 144, 141],
  [39, 173, 129],
  [92, 200, 99],
  [170, 220, 50],
  [253, 231, 37],
];
const shade = (share) => {
  const place = Math.min(Math.max(share, 0), 1) * (SCALE.length - 1),
    low = Math.min(Math.floor(place), SCALE.length - 2);
  return SCALE[low].map((value, c) => Math.round(value + (SCALE[low + 1][c] - value) * (place - low)));
};
const rgb = (colour) => `rgb(${colour.join(",")})`;
const isBright = ([r, g, b]) => 0.299 * r + 0.587 * g + 0.114 * b > 140;

/** The colours of the style sheet as it is now. */
const readPalette = () => {
  const style = getComputedStyle(document.documentElement),
    look = {};
  for (const name of NAMES) look[name] = style.getPropertyValue("--" + name).trim();
  return look;
};

const shortened = new Map();
/** `text` cut so that it fits into `width`, with … at the end. */
const shorten = (ctx, text, width) => {
  const key = `${ctx.font}|${Math.round(width)}|${text}`,
    known = shortened.get(key);
  if (known !== undefined) return known;
  let result = text.length > 200 ? text.slice(0, 200) + "…" : text;
  if (ctx.measureText(result).width > width) {
    let low = 0,
      high = result.length;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (ctx.measureText(result.slice(0, middle) + "…").width <= width) low = middle;
      else high = middle - 1;
    }
    result = result.slice(0, low) + "…";
  }
  if (shortened.size > 50000) shortened.clear();
  shortened.set(key, result);
  return result;
};
