// Pictures of the steps that a training keeps, side by side. A click has the next run use that step: the choice is the
// value of the node's own widget, so that the workflow keeps it.
import { styled } from "./elements.mjs";

export const STRIP_PX = 112;
const PICTURE_PX = 68;
const ROW_CSS = "display:flex; gap:4px; overflow-x:auto; padding:2px;";
const BUTTON_CSS = `flex:none; min-width:${PICTURE_PX + 4}px; padding:0; border:2px solid transparent; border-radius:6px;
  background:none; color:inherit; font:inherit; cursor:pointer;`;
const PICTURE_CSS = `width:${PICTURE_PX}px; height:${PICTURE_PX}px; object-fit:cover; border-radius:4px;`;

export class SampleStrip {
  /**
   * @param {object} widget The widget that holds the step to use; 0 is the last.
   * @param {() => object} words The words in the page's language.
   * @param {() => void} chosen Called when the user has chosen a step.
   * @param {() => void} resized Called when the strip appears or goes.
   */
  constructor(widget, words, chosen, resized) {
    Object.assign(this, { widget, words, chosen, resized, buttons: new Map(), use: null, starting: false });
    this.element = styled("div", "display:none;", { className: "metalora-samples" });
    this.row = styled("div", ROW_CSS, { role: "group" });
    this.told = styled("div", "");
    this.element.append(this.row, this.told);
    const called = widget.callback;
    widget.callback = (...given) => {
      called?.apply(widget, given);
      this.#mark();
    };
  }

  get heightPx() {
    return this.buttons.size ? STRIP_PX : 0;
  }

  /** The node runs: the first thing that a training tells takes the pictures of the one before away. */
  starts() {
    this.starting = true;
  }

  /** A training has told something. */
  trains(steps) {
    if (this.starting) this.show([], { last: steps, steps });
    this.starting = false;
  }

  /** Show one more step of a running training: { step, steps, picture }. */
  add({ step, steps, picture }) {
    this.trains(steps);
    this.use = { last: steps, steps };
    this.#put(step, picture);
    this.#mark();
  }

  /**
   * Show what a finished run keeps.
   *
   * @param {{step: number, picture: string}[]} samples Pictures as data addresses.
   * @param {{step?: number, last: number, steps: number}} use The step that is used, the result's own, and all.
   */
  show(samples, use) {
    this.use = use ?? null;
    const kept = new Set(samples.map(({ step }) => step));
    for (const [step, button] of this.buttons)
      if (!kept.has(step)) {
        button.remove();
        this.buttons.delete(step);
      }
    for (const { step, picture } of samples) this.#put(step, picture);
    this.#mark();
  }

  #put(step, picture) {
    const button = this.buttons.get(step) ?? this.#button(step);
    button.firstChild.style.display = picture ? "block" : "none";
    if (picture) button.firstChild.src = picture;
  }

  #button(step) {
    const button = styled("button", BUTTON_CSS, { type: "button" });
    button.append(styled("img", PICTURE_CSS, { alt: "" }), styled("span", ""));
    button.addEventListener("click", () => {
      this.widget.value = step === this.use?.last ? 0 : step;
      this.widget.callback(this.widget.value);
      this.chosen();
    });
    this.buttons.set(step, button);
    const next = [...this.buttons.keys()].filter((other) => other > step).sort((one, other) => one - other)[0];
    this.row.insertBefore(button, this.buttons.get(next) ?? null);
    return button;
  }

  /** Mark the step that is chosen, and say whether it is the one that is used. */
  #mark() {
    const { use } = this;
    const display = this.buttons.size ? "" : "none";
    if (this.element.style.display !== display) {
      this.element.style.display = display;
      this.resized();
    }
    if (!use) return;
    const words = this.words();
    const chosen = Number(this.widget.value) || use.last;
    this.row.ariaLabel = words.samples;
    for (const [step, button] of this.buttons) {
      const pressed = step === chosen;
      button.ariaPressed = String(pressed);
      button.ariaLabel = button.title = words.sample(step, use.steps);
      button.style.borderColor = pressed ? "currentColor" : "transparent";
      button.lastChild.textContent = pressed ? `✓ ${step}` : `${step}`;
    }
    const waits = use.step === undefined && chosen === use.last;
    this.told.textContent = waits ? "" : chosen === use.step ? words.used(chosen, use.steps) : words.next(chosen, use.steps);
  }
}
