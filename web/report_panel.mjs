// A panel at the foot of a node: a line of losses while it trains, and its report as plain text. It is made when there
// is something to show, holds no state of the workflow and is never saved with it.
import { LossLine } from "./loss_line.mjs";

const WIDGET = "metalora_report";
const MIN_HEIGHT_PX = 96;
const MAX_HEIGHT_PX = 180;
const PANEL_CSS = `box-sizing:border-box; width:100%; min-height:${MIN_HEIGHT_PX}px; max-height:${MAX_HEIGHT_PX}px;
  overflow:auto; padding:6px 8px;
  border-radius:6px; font:12px/1.45 sans-serif; color:var(--input-text, #ddd); background:var(--comfy-input-bg, #222);`;
const ERROR_COLOUR = "var(--error-text, #ff6b6b)";
const TEXT_CSS = "white-space:pre-wrap; overflow-wrap:anywhere; user-select:text;";

class ReportPanel {
  constructor() {
    this.element = document.createElement("div");
    this.element.className = "metalora-report";
    this.element.style.cssText = PANEL_CSS;
    this.text = document.createElement("div");
    this.text.style.cssText = TEXT_CSS;
    this.losses = new LossLine();
    this.reached = "";
    this.element.append(this.losses.element, this.text);
  }

  /** Show what a finished node sent to the page: { text, course }. */
  report({ text, course }) {
    this.say(text.join("\n").trim());
    this.losses.draw(course ?? []);
  }

  /** Show one step of a training: { step, steps, course }. */
  progress({ step, steps, course }, words) {
    this.reached = words.step(step, steps);
    this.losses.draw(course);
    this.say(this.reached + (course.length ? words.loss(course.at(-1)[1].toFixed(4)) : ""));
  }

  /** Show why the node failed. */
  failed(reason, words) {
    this.say(words.failed(reason), ERROR_COLOUR);
  }

  /** Show how far the node had come when it was cancelled. */
  cancelled(words) {
    this.say(words.cancelled(this.reached));
  }

  /** Take away a failure once the node runs again; nodes without a report of their own would show it for ever. */
  starts() {
    if (this.text.style.color !== "inherit") this.say("");
  }

  say(text, colour = "inherit") {
    this.text.textContent = text;
    this.text.style.color = colour;
  }
}

/**
 * The panel of a node, made at the first call.
 *
 * @param {object} node A node of the pack, in the classic canvas or in Nodes 2.0.
 * @returns {ReportPanel}
 */
export function panelOf(node) {
  const found = node.widgets?.find((widget) => widget.name === WIDGET);
  if (found) return found.panel;
  const panel = new ReportPanel();
  const widget = node.addDOMWidget(WIDGET, "metalora_report", panel.element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => MIN_HEIGHT_PX,
  });
  widget.serialize = false;
  widget.panel = panel;
  const [, neededHeight] = node.computeSize();
  node.setSize([node.size[0], Math.max(node.size[1], neededHeight)]);
  node.setDirtyCanvas?.(true, true);
  return panel;
}
