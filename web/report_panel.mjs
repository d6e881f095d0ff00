// A panel at the foot of a node: the loss line and the sample pictures of a training, and its report as plain text. It
// is made when there is something to show, holds no state of the workflow and is never saved with it.
import { LossLine } from "./loss_line.mjs";
import { SampleStrip } from "./sample_strip.mjs";

const WIDGET = "metalora_report";
const STEP_WIDGET = "use_step";
const MIN_HEIGHT_PX = 96;
const MAX_HEIGHT_PX = 180;
const PANEL_CSS = `box-sizing:border-box; width:100%; overflow:auto; padding:6px 8px;
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
    this.strip = null;
    this.element.append(this.losses.element, this.text);
  }

  /** Show sample pictures to choose from, above the text. */
  offer(strip) {
    this.strip = strip;
    this.text.before(strip.element);
  }

  get minHeight() {
    return MIN_HEIGHT_PX + (this.strip?.heightPx ?? 0);
  }

  /** Show what a finished node sent to the page: { text, course, samples, use }. */
  report({ text, course, samples, use }) {
    this.say(text.join("\n").trim());
    this.losses.draw(course ?? []);
    this.strip?.show(samples ?? [], use?.[0]);
  }

  /** Show the picture of a step that is kept: { step, steps, picture }. */
  sample(detail) {
    this.strip?.add(detail);
  }

  /** Show one step of a training: { step, steps, course }. */
  progress({ step, steps, course }, words) {
    this.reached = words.step(step, steps);
    this.strip?.trains(steps);
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
    this.strip?.starts();
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
 * @param {{words: () => object, changed: (node: object) => void}} page
 * @returns {ReportPanel}
 */
export function panelOf(node, { words, changed }) {
  const found = node.widgets?.find((widget) => widget.name === WIDGET);
  if (found) return found.panel;
  const panel = new ReportPanel();
  const widget = node.addDOMWidget(WIDGET, "metalora_report", panel.element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => panel.minHeight,
  });
  widget.serialize = false;
  widget.panel = panel;
  const grow = () => {
    panel.element.style.minHeight = `${panel.minHeight}px`;
    panel.element.style.maxHeight = `${panel.minHeight + MAX_HEIGHT_PX - MIN_HEIGHT_PX}px`;
    const [, neededHeight] = node.computeSize();
    node.setSize([node.size[0], Math.max(node.size[1], neededHeight)]);
    node.setDirtyCanvas?.(true, true);
  };
  const step = node.widgets.find(({ name }) => name === STEP_WIDGET);
  if (step) panel.offer(new SampleStrip(step, words, () => changed(node), grow));
  grow();
  return panel;
}
