// Takes the pictures of the guides in the real page: node docs/page_pictures.mjs URL CHROMIUM PACK FOLDER.
// Runs every example that needs nothing downloaded, and photographs nodes, help and graphs in Nodes 2.0.
import { writeFile } from "node:fs/promises";
import { openExample, openHelp, openPage, runOnce, setSetting } from "../tests/web/page.mjs";

const [url, chromiumPath, pack, folder] = process.argv.slice(2);
const RUN_LIMIT_MS = 1_800_000;
const JPEG = { type: "jpeg", quality: 88 };
const WAIT_MS = 1500;
const EDGE_PX = 12;

// Example, node types to photograph after its run, and whether it runs here.
const PLAN = [
  ["01_adapt_and_generate", ["LoadPocketModel", "PrepareReferences", "AdaptIdentity", "ApplyIdentity", "SaveIdentity"], true],
  ["03_two_identities", ["IdentityHook"], true],
  ["04_meta_train_a_prior", ["MetaTrainPrior"], true],
  ["05_evaluate_an_identity", ["EvaluateIdentity"], true],
  ["06_export_as_lora", ["RecordConsent", "ExportLoRA", "SaveImageWithCredentials"], true],
  ["07_catalogue_sheet", [], true],
  ["08_quick_prior", ["QuickPrior"], true],
  ["09_adapt_many", ["AdaptMany"], true],
  ["02b_adapt_z_image", [], false],
  ["02c_adapt_flux1_dev", [], false],
  ["02a_adapt_flux2_klein", ["LoadPrior", "LoadIdentity"], false],
];

/** Bring a node into view at its real size and photograph it alone. */
async function photographNode(page, type) {
  const id = await page.evaluate((type) => {
    const { canvas, graph } = window.app;
    const node = graph.nodes.find((node) => node.type === type);
    if (node.mode === 2) node.mode = 0;
    const choice = node.widgets?.find((widget) => widget.value === "");
    if (choice?.options?.values?.length) choice.value = choice.options.values[0];
    canvas.deselectAll();
    canvas.ds.scale = 1;
    canvas.ds.offset = [260 - node.pos[0], 140 - node.pos[1]];
    canvas.setDirty(true, true);
    return node.id;
  }, `MetaLoRA_${type}`);
  await page.waitForTimeout(WAIT_MS);
  const element = page.locator(`[data-node-id="${id}"]`).first();
  await element.screenshot({ ...JPEG, path: `${folder}/MetaLoRA_${type}.jpg` });
}

/** The pictures that Save Image and Preview Image nodes hold: title of the node and the files. */
function savedFiles(page) {
  return page.evaluate(() => {
    const saving = window.app.graph.nodes.filter((node) => ["SaveImage", "PreviewImage"].includes(node.type));
    return saving.map((node) => ({ title: node.title, files: window.app.nodeOutputs[node.id]?.images ?? [] }));
  });
}

/** Run with other seeds, so that every node has something to show. */
async function runAgain(page) {
  await page.evaluate(() => {
    const seeds = window.app.graph.nodes.flatMap((node) => node.widgets ?? []).filter((widget) => widget.name === "seed");
    for (const seed of seeds) seed.value += 1;
  });
  await runOnce(page, RUN_LIMIT_MS);
}

/** Photograph all groups of the open workflow, and nothing else of the page. */
async function wholeGraph(page, name) {
  await page.evaluate(() => {
    window.app.canvas.deselectAll();
    window.app.extensionManager.command.execute("Comfy.Canvas.FitView");
  });
  await page.waitForTimeout(WAIT_MS);
  const clip = await page.evaluate((margin) => {
    const { ds, canvas } = window.app.canvas;
    const box = canvas.getBoundingClientRect();
    const bounds = window.app.graph.groups.map((group) => group.boundingRect ?? group._bounding);
    const place = (value, offset, start) => (value + offset) * ds.scale + start;
    const left = place(Math.min(...bounds.map((b) => b[0])), ds.offset[0], box.left) - margin;
    const top = place(Math.min(...bounds.map((b) => b[1])), ds.offset[1], box.top) - margin;
    const right = place(Math.max(...bounds.map((b) => b[0] + b[2])), ds.offset[0], box.left) + margin;
    const bottom = place(Math.max(...bounds.map((b) => b[1] + b[3])), ds.offset[1], box.top) + margin;
    return { x: left, y: top, width: right - left, height: bottom - top };
  }, EDGE_PX);
  await page.screenshot({ ...JPEG, clip, path: `${folder}/${name}.jpg` });
}

const { browser, page } = await openPage(url, chromiumPath);
const told = {};
try {
  await page.setViewportSize({ width: 1760, height: 1180 });
  for (const [id, value] of [["Comfy.VueNodes.Enabled", true], ["Comfy.Minimap.Visible", false], ["Comfy.Locale", "en"],
    // Text is drawn at every zoom, in the classic canvas too.
    ["LiteGraph.Canvas.MinFontSizeForLOD", 0]])
    await setSetting(page, id, value);
  await page.reload({ waitUntil: "domcontentloaded" });
  await page.waitForFunction(() => window.app?.graph && window.app?.extensionManager, null, { timeout: RUN_LIMIT_MS });
  for (const [example, types, runs] of PLAN) {
    await openExample(page, pack, example);
    if (runs) {
      const run = await runOnce(page, RUN_LIMIT_MS);
      if (run.end !== "execution_success" || run.complaint) throw new Error(`${example}: ${run.end} ${run.complaint}`);
      told[example] = await savedFiles(page);
    }
    // Files that were written meanwhile are to choose from.
    await page.evaluate(() => window.app.refreshComboInNodes());
    await wholeGraph(page, `graph-${example}`);
    for (const type of types) await photographNode(page, type);
    console.error(`${example} done`);
  }
  await setSetting(page, "Comfy.VueNodes.Enabled", false);
  await openExample(page, pack, "01_adapt_and_generate");
  await runAgain(page);
  await wholeGraph(page, "classic-canvas");
  await setSetting(page, "Comfy.VueNodes.Enabled", true);
  await openHelp(page, "MetaLoRA_AdaptIdentity");
  await page.waitForTimeout(WAIT_MS);
  await page.screenshot({ ...JPEG, path: `${folder}/help-page.jpg` });
} finally {
  await browser.close();
}
await writeFile(`${folder}/saved.json`, JSON.stringify(told, null, 1));
