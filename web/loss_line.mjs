// A small line chart of losses: the smoothed course of a training, as the server sends it.
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 200;
const HEIGHT = 40;

/** A course of [share of the run, loss] pairs as points of an SVG polyline. */
export function polylinePoints(course) {
  const values = course.map(([, loss]) => loss);
  const low = Math.min(...values);
  const span = Math.max(...values) - low || 1;
  const place = ([share, loss]) => {
    const y = HEIGHT - 2 - ((loss - low) / span) * (HEIGHT - 4);
    return `${(share * WIDTH).toFixed(1)},${y.toFixed(1)}`;
  };
  return course.map(place).join(" ");
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
  }

  /** Draw a whole course; one of fewer than two points is no line yet. */
  draw(course) {
    this.element.style.display = course.length > 1 ? "block" : "none";
    this.line.setAttribute("points", polylinePoints(course));
  }
}
