// A small line chart of losses: the smoothed course of a training, drawn as it arrives.
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 200;
const HEIGHT = 40;
const KEPT_POINTS = 400;
const SMOOTHING = 0.9;

/** Losses so far as points of an SVG polyline. Losses of single steps jump, so a running mean is drawn. */
export function polylinePoints(history, steps) {
  const values = history.map((point) => point.smooth);
  const low = Math.min(...values);
  const span = Math.max(...values) - low || 1;
  const place = (point) => {
    const x = (point.step / Math.max(steps, 1)) * WIDTH;
    const y = HEIGHT - 2 - ((point.smooth - low) / span) * (HEIGHT - 4);
    return `${x.toFixed(1)},${y.toFixed(1)}`;
  };
  return history.map(place).join(" ");
}

export class LossLine {
  constructor() {
    this.element = document.createElementNS(SVG, "svg");
    this.element.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    this.element.setAttribute("preserveAspectRatio", "none");
    this.element.style.cssText = `display:none; width:100%; height:${HEIGHT}px;`;
    this.line = document.createElementNS(SVG, "polyline");
    this.line.setAttribute("fill", "none");
    this.line.setAttribute("stroke", "currentColor");
    this.line.setAttribute("stroke-width", "1.5");
    this.line.setAttribute("vector-effect", "non-scaling-stroke");
    this.element.append(this.line);
    this.history = [];
  }

  /** Add one step; a step that is not later than the last one begins a new training. */
  add(step, steps, loss) {
    if (!Number.isFinite(loss)) return;
    const last = this.history.at(-1);
    if (last && step <= last.step) this.history = [];
    const before = this.history.at(-1)?.smooth ?? loss;
    this.history.push({ step, smooth: SMOOTHING * before + (1 - SMOOTHING) * loss });
    if (this.history.length > KEPT_POINTS) this.history = this.history.filter((_, index) => index % 2 === 0 || index > KEPT_POINTS / 2);
    this.element.style.display = "block";
    this.line.setAttribute("points", polylinePoints(this.history, steps));
  }
}
