// The sidebar tab with the saved identities: find one, put it into the graph, give it another name, delete it.
import { made } from "./elements.mjs";

const ROUTE = "/metalora/identities";
const NODE = "MetaLoRA_LoadIdentity";
const WIDGET = "identity_name";
// Cards out of sight are neither laid out nor painted, and their pictures not loaded.
const CARD_PX = 92;
const CSS = `
.metalora-library { display:flex; flex-direction:column; gap:8px; height:100%; box-sizing:border-box; padding:8px; overflow:hidden;
  font:13px/1.4 sans-serif; color:var(--input-text, #ddd); }
.metalora-library input, .metalora-library select, .metalora-library button { font:inherit; color:inherit; box-sizing:border-box;
  background:var(--comfy-input-bg, #222); border:1px solid var(--border-color, #555); border-radius:6px; padding:4px 8px; }
.metalora-library button { cursor:pointer; }
.metalora-library :is(input, select, button):focus-visible { outline:2px solid var(--p-primary-color, #5aa9e6); outline-offset:1px; }
.metalora-library .bar { display:flex; gap:6px; } .metalora-library .bar input { flex:1; min-width:0; }
.metalora-library ul { list-style:none; margin:0; padding:2px; overflow:auto; flex:1; }
.metalora-library li { display:flex; gap:8px; padding:8px; margin-bottom:6px; border:1px solid var(--border-color, #555);
  border-radius:8px; background:var(--comfy-menu-bg, #333); content-visibility:auto; contain-intrinsic-size:auto ${CARD_PX}px; }
.metalora-library li[hidden] { display:none; }
.metalora-library .face { flex:none; width:64px; height:64px; border-radius:6px; object-fit:cover; display:grid; place-items:center;
  font-size:28px; background:var(--comfy-input-bg, #222); }
.metalora-library .about { flex:1; min-width:0; overflow-wrap:anywhere; } .metalora-library .about b { display:block; }
.metalora-library .ended { font-weight:bold; } .metalora-library .ended::before { content:"⚠ "; }
.metalora-library .does { display:flex; flex-wrap:wrap; gap:4px; margin-top:4px; } .metalora-library .does button { padding:1px 6px; font-size:12px; }`;

const stemOf = (name) => name.replace(/\.safetensors$/i, "");
const ORDERS = {
  newest: (one, other) => (one.written < other.written ? 1 : one.written > other.written ? -1 : 0),
  byName: (one, other) => one.name.localeCompare(other.name, undefined, { numeric: true }),
};

class Library {
  /**
   * @param {HTMLElement} place Where the tab is.
   * @param {object} page ComfyUI's `app` and `api`, `words()` in the page's language, and `changed(node)` after a change.
   */
  constructor(place, page) {
    const words = page.words();
    Object.assign(this, { ...page, words, cards: new Map(), found: [] });
    const listens = { oninput: () => this.#arrange() };
    this.search = made("input", { type: "search", placeholder: words.searchLibrary, ariaLabel: words.searchLibrary, ...listens });
    const orders = Object.keys(ORDERS).map((value) => made("option", { value, textContent: words[value] }));
    this.order = made("select", { ariaLabel: words.sort, ...listens }, ...orders);
    this.count = made("div", { className: "count", role: "status" });
    // Apart from the count, so that a run that ends meanwhile takes no offer to undo away.
    this.told = made("div", { className: "told", role: "status" });
    this.list = made("ul", { ariaLabel: words.library });
    const bar = made("div", { className: "bar" }, this.search, this.order);
    const style = made("style", { textContent: CSS });
    place.replaceChildren(made("div", { className: "metalora-library" }, style, bar, this.told, this.count, this.list));
  }

  /** Ask the server again, and show what it says. */
  async refresh() {
    try {
      this.found = (await this.#ask("")).identities;
      this.cards = new Map(this.found.map((one) => [one, this.#card(one)]));
      this.#arrange();
    } catch (error) {
      this.told.textContent = error.message;
    }
  }

  /** Show the list as it is now, with the focus on one card. */
  async #show(name) {
    await this.refresh();
    const one = this.found.find((one) => one.name === name);
    this.cards.get(one)?.querySelector("button").focus();
  }

  async #ask(path, body) {
    const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
    const answer = await this.api.fetchApi(ROUTE + path, options);
    const said = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(said.error ?? `${ROUTE}${path}: ${answer.status}`);
    return said;
  }

  /** Put the cards in order, and hide those that the search does not name. */
  #arrange() {
    const wanted = this.search.value.toLowerCase().split(/\s+/);
    let shown = 0;
    this.found.sort(ORDERS[this.order.value]);
    for (const one of this.found) {
      const text = `${one.name} ${one.subject} ${one.trigger} ${one.class_word} ${one.family}`.toLowerCase();
      this.cards.get(one).hidden = !wanted.every((word) => text.includes(word));
      shown += !this.cards.get(one).hidden;
    }
    const { scrollTop } = this.list;
    this.list.replaceChildren(...this.found.map((one) => this.cards.get(one)));
    this.list.scrollTop = scrollTop;
    this.count.textContent = this.found.length ? this.words.identities(shown, this.found.length) : this.words.emptyLibrary;
  }

  #card(one) {
    const { words } = this;
    const title = stemOf(one.name);
    const who = one.subject || `${one.trigger} ${one.class_word}`.trim();
    const until = one.expires && words.until(new Date(one.expires).toLocaleDateString());
    const consent = made("div", { textContent: [words.consentStates[one.consent] ?? one.consent, until].filter(Boolean).join(", ") });
    consent.classList.toggle("ended", !["in force", "no record"].includes(one.consent));
    const megabytes = `${(one.size_bytes / 1e6).toFixed(1)} MB`;
    const facts = [who, one.subject && one.class_word, one.family, megabytes].filter(Boolean).join(" · ");
    const button = (label, does) =>
      made("button", { type: "button", textContent: label, ariaLabel: `${label}: ${title}`, onclick: () => this.#try(() => does(one)) });
    const does = made("div", { className: "does" });
    does.append(button(words.addToGraph, (one) => this.#add(one)), button(words.rename, (one) => this.#rename(one)));
    does.append(button(words.delete, (one) => this.#delete(one)));
    const about = made("div", { className: "about" }, made("b", { textContent: title }), made("div", { textContent: facts }), consent, does);
    return made("li", {}, this.#face(one, who || title), about);
  }

  #face(one, who) {
    if (!one.thumbnail) return made("div", { className: "face", ariaHidden: "true", textContent: [...who][0]?.toUpperCase() ?? "" });
    const query = new URLSearchParams({ name: one.name, written: one.written });
    return made("img", { className: "face", alt: "", loading: "lazy", src: this.api.apiURL(`${ROUTE}/thumbnail?${query}`) });
  }

  async #try(work) {
    try {
      await work();
    } catch (error) {
      this.told.textContent = error.message;
    }
  }

  /** Put a node that loads the identity in the middle of what the canvas shows. */
  async #add({ name }) {
    const { app } = this;
    const node = window.LiteGraph.createNode(NODE);
    const widget = node.widgets.find((widget) => widget.name === WIDGET);
    const { canvas } = app;
    const { offset, scale } = canvas.ds;
    const { clientWidth, clientHeight } = canvas.canvas;
    node.pos = [clientWidth / 2 / scale - offset[0] - node.size[0] / 2, clientHeight / 2 / scale - offset[1] - node.size[1] / 2];
    (canvas.graph ?? app.graph).add(node);
    // It may have been saved since the page read the lists.
    if (!widget.options.values.includes(name)) await app.refreshComboInNodes();
    widget.value = name;
    widget.callback?.(name);
    canvas.selectNode(node);
    this.changed(node);
  }

  async #rename(one) {
    const { words } = this;
    const asked = { title: words.rename, message: words.newName(stemOf(one.name)), defaultValue: stemOf(one.name) };
    const name = await this.app.extensionManager.dialog.prompt(asked);
    if (!name || name === stemOf(one.name)) return;
    const renamed = await this.#ask("/rename", { name: one.name, new_name: name });
    this.told.replaceChildren();
    await this.#show(renamed.name);
  }

  async #delete(one) {
    const { name } = await this.#ask("/delete", { name: one.name });
    await this.refresh();
    const undo = made("button", { type: "button", textContent: this.words.undo });
    undo.onclick = () =>
      this.#try(async () => {
        const restored = await this.#ask("/restore", { undo: name });
        this.told.replaceChildren();
        await this.#show(restored.name);
      });
    this.told.replaceChildren(`${this.words.deletedIdentity(stemOf(one.name))} `, undo);
    undo.focus();
  }
}

/** Add the tab to the sidebar. */
export function addLibrary(page) {
  const words = page.words();
  let open = null;
  page.app.extensionManager.registerSidebarTab({
    id: "metalora-library",
    icon: "pi pi-id-card",
    title: words.library,
    tooltip: words.library,
    label: words.libraryShort,
    type: "custom",
    render: (place) => {
      open = new Library(place, page);
      return open.refresh();
    },
    destroy: () => (open = null),
  });
  // A run may have saved one.
  page.api.addEventListener("execution_success", () => open?.refresh());
}
