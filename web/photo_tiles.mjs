// Photos of one's own on a node: dropped, pasted or chosen, uploaded to ComfyUI's input folder, and shown as tiles. The
// widget's value is text, one photo per line: its name in the input folder, a tab, and its caption.
import { styled } from "./elements.mjs";

const MIN_HEIGHT_PX = 104;
const ROW_PX = 132;
const TILE_PX = 92;
const ROWS_AT_MOST = 3;
const COLOURS = { good: "#2f7d55", check: "#b86e00", unusable: "#b3312c" };
const MARKS = { good: "✓", check: "!", unusable: "✕" };
const AREA_CSS = `box-sizing:border-box; width:100%; height:100%; overflow:auto; padding:6px; border-radius:6px;
  font:12px/1.4 sans-serif; color:var(--input-text, #ddd); background:var(--comfy-input-bg, #222);`;
const GRID_CSS = `display:grid; gap:6px; grid-template-columns:repeat(auto-fill, minmax(${TILE_PX}px, 1fr));`;
const ADD_CSS = `min-height:${TILE_PX}px; border:1px dashed currentColor; border-radius:6px; background:none;
  color:inherit; font:inherit; opacity:.8; cursor:pointer; padding:6px;`;
const MARK_CSS = `position:absolute; width:20px; height:20px; padding:0; border:0; border-radius:10px; color:#fff;
  background:rgb(0 0 0 / 60%); font:13px/20px sans-serif; text-align:center; cursor:pointer;`;
const CAPTION_CSS = `box-sizing:border-box; width:100%; border:0; border-radius:4px; padding:2px 4px; font:inherit;
  color:inherit; background:rgb(128 128 128 / 20%);`;

/** The photos of a widget's text. */
export function photosIn(text) {
  const lines = String(text ?? "").split("\n").map((line) => line.split("\t"));
  return lines.filter(([name]) => name.trim()).map(([name, caption]) => ({ name: name.trim(), caption: caption ?? "" }));
}

/** The widget's text of photos. */
export const textOf = (photos) => photos.map(({ name, caption }) => (caption ? `${name}\t${caption}` : name)).join("\n");

const oneLine = (text) => text.replace(/\s+/g, " ");

/** The picture files of something dropped or pasted. */
export const picturesOf = (transfer) =>
  [...(transfer?.files ?? [])].filter(({ type, name }) => type.startsWith("image/") || /\.hei[cf]$/i.test(name));

export class PhotoTiles {
  /**
   * @param {object} api The page's way to the server.
   * @param {() => object} words The words in the page's language.
   * @param {() => void} changed Called when the user has changed the photos.
   */
  constructor(api, words, changed) {
    Object.assign(this, { api, words, changed, photos: [], badges: new Map() });
    this.element = styled("div", AREA_CSS, { className: "metalora-photos", tabIndex: 0 });
    this.grid = styled("div", GRID_CSS);
    this.problem = styled("div", "color:var(--error-text, #ff6b6b); white-space:pre-wrap;");
    this.chooser = styled("input", "display:none", { type: "file", multiple: true, accept: "image/*,.heic,.heif" });
    this.chooser.addEventListener("change", () => this.add([...this.chooser.files]));
    this.element.append(this.grid, this.problem, this.chooser);
    this.element.addEventListener("dragover", (event) => this.#own(event));
    this.element.addEventListener("drop", (event) => this.#own(event) && this.add(picturesOf(event.dataTransfer)));
    this.#draw();
  }

  get value() {
    return textOf(this.photos);
  }

  set value(text) {
    if (text === this.value) return;
    this.photos = photosIn(text);
    this.#draw();
  }

  get minHeight() {
    const rows = Math.ceil((this.photos.length + 1) / 3);
    return this.photos.length ? ROW_PX * Math.min(rows, ROWS_AT_MOST) : MIN_HEIGHT_PX;
  }

  /** Upload files and put them behind the others. */
  async add(files) {
    this.problem.textContent = files.length ? this.words().uploading(files.length) : this.words().noPicture;
    const answers = await Promise.allSettled(files.map((file) => this.#upload(file)));
    const failed = answers.flatMap(({ reason }) => (reason ? [reason.message] : []));
    const names = answers.flatMap(({ value }) => value ?? []).filter((name) => !this.photos.some((one) => one.name === name));
    if (files.length) this.problem.textContent = failed.join("\n");
    this.#become([...this.photos, ...names.map((name) => ({ name, caption: "" }))]);
  }

  /** Show what a run found: a verdict and findings per file name. */
  judge(badges) {
    this.badges = new Map(badges.map((badge) => [badge.name, badge]));
    this.#draw();
  }

  #own(event) {
    event.preventDefault();
    event.stopPropagation();
    return true;
  }

  async #upload(file) {
    const body = new FormData();
    body.append("image", file, oneLine(file.name));
    const answer = await this.api.fetchApi("/upload/image", { method: "POST", body });
    if (answer.status !== 200) throw new Error(this.words().notUploaded(file.name, answer.statusText || answer.status));
    const { name, subfolder } = await answer.json();
    return subfolder ? `${subfolder}/${name}` : name;
  }

  #become(photos) {
    this.photos = photos;
    this.#draw();
    this.changed();
  }

  #draw() {
    this.element.style.minHeight = `${this.minHeight}px`;
    const words = this.words();
    const add = styled("button", ADD_CSS, { type: "button", textContent: this.photos.length ? words.more : words.drop });
    add.addEventListener("click", () => this.chooser.click());
    this.grid.style.gridTemplateColumns = this.photos.length ? "" : "1fr";
    if (this.photos.length) this.grid.style.cssText = GRID_CSS;
    this.grid.replaceChildren(...this.photos.map((photo, number) => this.#tile(photo, number)), add);
  }

  #tile(photo, number) {
    const words = this.words();
    const tile = styled("div", "min-width:0;", { className: "metalora-photo" });
    const frame = styled("div", "position:relative; aspect-ratio:1; border-radius:6px; overflow:hidden; background:#8884;");
    const picture = styled("img", "width:100%; height:100%; object-fit:cover; display:block;", { alt: photo.name, title: photo.name });
    picture.src = this.api.apiURL(`/view?${this.#address(photo.name)}`);
    frame.append(picture, this.#button("×", words.remove, "top:3px; right:3px;", () => this.#without(number)));
    if (number) frame.append(this.#button("‹", words.earlier, "bottom:3px; left:3px;", () => this.#swap(number - 1)));
    if (number < this.photos.length - 1)
      frame.append(this.#button("›", words.later, "bottom:3px; right:3px;", () => this.#swap(number)));
    const badge = this.badges.get(photo.name.split("/").pop());
    if (badge) frame.append(this.#badge(badge));
    const caption = styled("input", CAPTION_CSS, { placeholder: words.caption, title: words.captionHelp, value: photo.caption });
    caption.addEventListener("change", () => {
      photo.caption = oneLine(caption.value).trim();
      this.changed();
    });
    // The page's own keys, such as Delete for the node, are not meant while one writes.
    caption.addEventListener("keydown", (event) => event.stopPropagation());
    tile.append(frame, caption);
    return tile;
  }

  #badge({ verdict, findings }) {
    const words = this.words();
    const title = [words.verdicts[verdict], findings].filter(Boolean).join("\n");
    const css = `${MARK_CSS} top:3px; left:3px; cursor:help; background:${COLOURS[verdict]};`;
    return styled("span", css, { className: "metalora-badge", textContent: MARKS[verdict], title });
  }

  #button(mark, title, place, act) {
    const button = styled("button", `${MARK_CSS} ${place}`, { type: "button", textContent: mark, title, ariaLabel: title });
    button.addEventListener("click", act);
    return button;
  }

  #without(number) {
    this.#become(this.photos.filter((_, other) => other !== number));
  }

  #swap(number) {
    const photos = [...this.photos];
    photos.splice(number, 2, photos[number + 1], photos[number]);
    this.#become(photos);
  }

  #address(name) {
    const parts = name.split("/");
    return new URLSearchParams({ filename: parts.pop(), subfolder: parts.join("/"), type: "input" });
  }
}

/**
 * The widget that takes photos; files dropped anywhere on the node go to it.
 *
 * @param {object} node The node that gets it.
 * @param {string} name The input's name.
 * @param {{api: object, words: () => object, changed: () => void}} page
 * @returns {object} The widget; its `tiles` are the PhotoTiles.
 */
export function addPhotoTiles(node, name, { api, words, changed }) {
  const tiles = new PhotoTiles(api, words, () => {
    const [, neededHeight] = node.computeSize();
    node.setSize([node.size[0], Math.max(node.size[1], neededHeight)]);
    widget.callback?.(tiles.value);
    changed(node);
  });
  const widget = node.addDOMWidget(name, "metalora_photos", tiles.element, {
    getValue: () => tiles.value,
    setValue: (text) => (tiles.value = text),
    getMinHeight: () => tiles.minHeight,
    hideOnZoom: false,
  });
  widget.tiles = tiles;
  node.onDragOver = (event) => [...(event.dataTransfer?.items ?? [])].some(({ kind }) => kind === "file");
  node.onDragDrop = (event) => {
    const files = picturesOf(event.dataTransfer);
    if (files.length) tiles.add(files);
    return files.length > 0;
  };
  return widget;
}
