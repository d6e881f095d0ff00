// The only file that ComfyUI loads by itself: it shows what the pack's nodes report, on the nodes.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { nodeAt } from "./graph_lookup.mjs";
import { addLibrary } from "./library.mjs";
import { addPhotoTiles, picturesOf } from "./photo_tiles.mjs";
import { noteEnd, noteOutput, noteQueued, remembered } from "./remembered.mjs";
import { panelOf as panelOn } from "./report_panel.mjs";
import { deleteUnfinished } from "./unfinished.mjs";
import { wordsIn } from "./words.mjs";

const PREFIX = "MetaLoRA_";
const SHOW_REPORTS = "MetaLoRA.ShowReports";
const DELETE_UNFINISHED = "MetaLoRA.DeleteUnfinished";

const isOurs = (node) => (node?.comfyClass ?? node?.type ?? "").startsWith(PREFIX);
const wanted = () => app.extensionManager?.setting?.get(SHOW_REPORTS) ?? true;

const words = () => wordsIn(app.extensionManager?.setting?.get("Comfy.Locale"));
const ENDS = {
  execution_error: (panel, detail) => panel.failed(detail.exception_message.trim(), words()),
  execution_interrupted: (panel) => panel.cancelled(words()),
};

const tilesOf = (node) => node?.widgets?.find((widget) => widget.tiles)?.tiles;

/** Have the page notice a change that it did not make itself, so that it is saved and can be undone. */
function noteChange(node) {
  node.setDirtyCanvas?.(true, true);
  const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
  (tracker?.captureCanvasState ?? tracker?.checkState)?.call(tracker);
}

const page = { api, words, changed: noteChange };
const panelOf = (node) => panelOn(node, page);
const panelAt = (id) => nodeAt(app.graph, id ?? "")?.widgets?.find((widget) => widget.panel)?.panel;

/** Show what a node of ours sent to the page: its report, and badges on its photos. */
function showOutput(node, output) {
  if (output?.badges) tilesOf(node)?.judge(output.badges);
  if (output?.text && wanted()) panelOf(node).report(output);
}

/** Pictures that are pasted while a node that takes photos is selected go to that node. */
function pastePhotos(event) {
  const selected = Object.values(app.canvas?.selected_nodes ?? {});
  const tiles = selected.length === 1 && tilesOf(selected[0]);
  const files = picturesOf(event.clipboardData);
  if (!tiles || !files.length) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  tiles.add(files);
}

/** Let the panel of one of our nodes show something, if the user wants panels. */
function onPanel(id, show) {
  const node = nodeAt(app.graph, id);
  if (isOurs(node) && wanted()) show(panelOf(node));
}

/** Show on the nodes why ComfyUI refused to start a prompt: {id: {errors: [{message, details}]}}. */
function showRefusals(refusals) {
  for (const [id, { errors }] of Object.entries(refusals ?? {})) {
    const reasons = errors.map(({ message, details }) => details || message);
    onPanel(id, (panel) => panel.failed(reasons.join("\n"), words()));
  }
}

/** Show again what the nodes of the opened workflow told last. */
async function showRemembered() {
  const { graph } = app;
  for (const [id, { type, output, end }] of await remembered(api, graph)) {
    const node = nodeAt(graph, id);
    if (!isOurs(node) || node.comfyClass !== type || !wanted()) continue;
    if (end) ENDS[end.kind](panelOf(node), end.detail);
    else showOutput(node, output);
    // A contact sheet too: the page itself forgets pictures when it is reloaded.
    if (output?.images && node.graph === graph) app.nodeOutputs[node.id] ??= output;
    node.setDirtyCanvas?.(true, true);
  }
}

app.registerExtension({
  name: "MetaLoRA.Reports",

  settings: [
    {
      id: SHOW_REPORTS,
      category: ["Meta-LoRA", "Nodes", "Show reports"],
      name: "Show reports on the nodes",
      tooltip: "Each node shows its own report: findings on photos, losses, results.",
      type: "boolean",
      defaultValue: true,
    },
    {
      id: "MetaLoRA.PeopleWithoutConsent",
      category: ["Meta-LoRA", "Consent", "People without a consent record"],
      name: "People without a consent record",
      tooltip: "require: refuse to learn or draw people without a record. remind: do it, and say so in the report.",
      type: "combo",
      options: ["require", "remind"],
      defaultValue: "require",
    },
  ],

  commands: [
    {
      id: DELETE_UNFINISHED,
      label: "Meta-LoRA: delete unfinished runs",
      icon: "pi pi-trash",
      function: () => deleteUnfinished(app, api, words()),
    },
  ],
  menuCommands: [{ path: ["Extensions", "Meta-LoRA"], commands: [DELETE_UNFINISHED] }],
  getCustomWidgets() {
    return { METALORA_PHOTOS: (node, name) => ({ widget: addPhotoTiles(node, name, page) }) };
  },

  setup() {
    addLibrary({ ...page, app });
    document.addEventListener("paste", pastePhotos, true);
    api.addEventListener("metalora.progress", ({ detail }) => onPanel(detail.node, (panel) => panel.progress(detail, words())));
    api.addEventListener("metalora.sample", ({ detail }) => onPanel(detail.node, (panel) => panel.sample(detail)));
    for (const [kind, show] of Object.entries(ENDS))
      api.addEventListener(kind, ({ detail }) => onPanel(detail.node_id, (panel) => show(panel, detail)));
    api.addEventListener("executed", ({ detail }) => noteOutput(detail));
    for (const kind of ["execution_success", ...Object.keys(ENDS)]) api.addEventListener(kind, ({ detail }) => noteEnd(detail));
    api.addEventListener("executing", ({ detail }) => panelAt(detail?.node ?? detail)?.starts());
    const queue = api.queuePrompt;
    api.queuePrompt = async function () {
      try {
        const answer = await queue.apply(this, arguments);
        noteQueued(answer?.prompt_id, arguments[1]);
        return answer;
      } catch (refusal) {
        showRefusals(refusal.response?.node_errors);
        throw refusal;
      }
    };
  },

  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name.startsWith(PREFIX)) return;
    const before = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output) {
      before?.apply(this, arguments);
      showOutput(this, output);
    };
  },

  nodeCreated(node) {
    // Dates and other nodes' values in a prefix, as in core's Save Image.
    const prefix = isOurs(node) && node.widgets?.find(({ name }) => name === "filename_prefix");
    const replace = window.comfyAPI?.utils?.applyTextReplacements;
    if (prefix && replace) prefix.serializeValue = () => replace(app, prefix.value);
  },

  afterConfigureGraph: showRemembered,
});
