// A panel at the foot of a node: a line of losses while it trains, and its report as plain text. It is made when there
// is something to show, holds no state of the workflow and is never saved with it.
import { LossLine } from "./loss_line.mjs";

const WIDGET = "metalora_report";
const MIN_HEIGHT_PX = 96;
const MAX_HEIGHT_PX = 180;
const PANEL_CSS = `box-sizing:border-box; width:100%; min-height:${MIN_HEIGHT_PX}px; max-height:${MAX_HEIGHT_PX}px;
  overflow:auto; padding:6px 8px;
  border-radius:6px; font:12px/1.45 sans-serif; color:var(--input-text, #ddd); background:var(--comfy-input-bg, #222);`;
const TEXT_CSS = "white-space:pre-wrap; overflow-wrap:anywhere; user-select:text;";

class ReportPanel {
  constructor() {
    this.element = document.createElement("div");
    this.element.className = "metalora-report";
    this.element.style.cssText = PANEL_CSS;
    this.text = document.createElement("div");
    this.text.style.cssText = TEXT_CSS;
    this.losses = new LossLine();
    this.element.append(this.losses.element, this.text);
  }

  /** Show a finished node's report; the loss line stays. */
  report(text) {
    this.text.textContent = text;
  }

  /** Show one step of a training: { step, steps, loss }. */
  progress({ step, steps, loss }) {
    this.losses.add(step, steps, loss);
    const value = Number.isFinite(loss) ? `, loss ${loss.toFixed(4)}` : "";
    this.text.textContent = `Step ${step} of ${steps}${value}`;
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
