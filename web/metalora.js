// The only file that ComfyUI loads by itself: it shows what the pack's nodes report, on the nodes.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { nodeAt } from "./graph_lookup.mjs";
import { panelOf } from "./report_panel.mjs";

const PREFIX = "MetaLoRA_";
const SHOW_REPORTS = "MetaLoRA.ShowReports";

const isOurs = (node) => (node?.comfyClass ?? node?.type ?? "").startsWith(PREFIX);
const wanted = () => app.extensionManager?.setting?.get(SHOW_REPORTS) ?? true;

function showProgress({ detail }) {
  const node = nodeAt(app.graph, detail.node);
  if (isOurs(node) && wanted()) panelOf(node).progress(detail);
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

  setup() {
    api.addEventListener("metalora.progress", showProgress);
  },

  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name.startsWith(PREFIX)) return;
    const before = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output) {
      before?.apply(this, arguments);
      const text = (output?.text ?? []).join("\n").trim();
      if (text && wanted()) panelOf(this).report(text);
    };
  },
});
