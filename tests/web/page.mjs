// The real ComfyUI page in an installed Chromium: starting it, and what a user does there.
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"];
FLAGS.push("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage");
// On a machine that does much else the page takes minutes; a test that hangs is ended by its caller.
const START_MS = 600_000;
const ACTION_MS = 120_000;
const COMPLAINT = '[data-testid="error-overlay"], .comfy-missing-nodes, .comfy-missing-models';

/** Open the page and wait until the application stands. Errors that the page throws are collected. */
export async function openPage(url, executablePath) {
  const browser = await chromium.launch({ executablePath, args: FLAGS });
  const page = await browser.newPage({ viewport: { width: 1600, height: 950 } });
  page.setDefaultTimeout(ACTION_MS);
  const errors = [];
  page.on("pageerror", (error) => errors.push(String(error.stack ?? error).slice(0, 400)));
  await page.goto(url, { waitUntil: "domcontentloaded", timeout: START_MS });
  await page.waitForFunction(() => window.app?.graph && window.app?.extensionManager, null, { timeout: START_MS });
  await setSetting(page, "Comfy.TutorialCompleted", true);
  // Without a graphics card every redraw of the canvas costs processor time.
  await setSetting(page, "LiteGraph.Canvas.MaximumFps", 3);
  await page.keyboard.press("Escape");
  return { browser, page, errors };
}

export function setSetting(page, id, value) {
  return page.evaluate(([id, value]) => window.app.extensionManager.setting.set(id, value), [id, value]);
}

export function command(page, id) {
  return page.evaluate((id) => window.app.extensionManager.command.execute(id), id);
}

/** Open an example as the template browser does, and say what the page thinks of it. */
export async function openExample(page, pack, name) {
  await page.evaluate(
    async ([pack, name]) => {
      const answer = await window.app.api.fetchApi(`/workflow_templates/${pack}/${name}.json`);
      await window.app.loadGraphData(await answer.json(), true, true, name);
    },
    [pack, name],
  );
  await page.waitForTimeout(600);
  await command(page, "Comfy.Canvas.FitView");
  const opened = await page.evaluate(async (complaint) => {
    const nodes = window.app.graph.nodes;
    const prompt = (await window.app.graphToPrompt()).output;
    for (const node of Object.values(prompt)) delete node._meta;
    return {
      nodes: nodes.length,
      red: nodes.filter((node) => node.has_errors || !node.comfyClass && node.type !== "MarkdownNote").map((node) => node.type),
      complaint: [...document.querySelectorAll(complaint)].map((shown) => shown.textContent).join(" "),
      prompt,
    };
  }, COMPLAINT);
  // Older pages show their complaints in dialogs that lie over everything.
  for (let left = 3; left && (await page.locator(".p-dialog-mask").count()); left--) {
    await page.keyboard.press("Escape");
    await page.waitForTimeout(400);
  }
  return opened;
}

/** Open an example whose model files are not there, and read what the page says of them. */
export async function missingFiles(page, pack, name) {
  const { red, complaint } = await openExample(page, pack, name);
  const details = page.getByText("View details").first();
  if (await details.isVisible()) await details.click();
  await page.waitForTimeout(600);
  return { red, text: complaint + (await page.evaluate(() => document.body.innerText)) };
}

/** The title that a fresh node of this type gets, in the page's language. */
export function titleOf(page, type) {
  return page.evaluate((type) => window.LiteGraph.createNode(type).title, type);
}

/** Open the page anew, as it is in another language. */
export async function reloadIn(page, locale) {
  await setSetting(page, "Comfy.Locale", locale);
  await page.reload({ waitUntil: "domcontentloaded", timeout: START_MS });
  await page.waitForFunction(() => window.app?.graph && window.app?.extensionManager, null, { timeout: START_MS });
}

/** Press Run, and wait until the last node has finished; says what was seen meanwhile. */
export async function runOnce(page, limitMs) {
  await page.evaluate(() => {
    const seen = (window.metaloraSeen = { progress: 0, previews: 0, losses: 0, end: "" });
    const api = window.app.api;
    api.addEventListener("progress", () => seen.progress++);
    api.addEventListener("b_preview", () => seen.previews++);
    api.addEventListener("b_preview_with_metadata", () => seen.previews++);
    api.addEventListener("metalora.progress", () => seen.losses++);
    for (const end of ["execution_success", "execution_error", "execution_interrupted"])
      api.addEventListener(end, ({ detail }) => (seen.end = `${end} ${detail.exception_message ?? ""}`.trim()));
  });
  await page.click('[data-testid="queue-button"]');
  await page.waitForFunction(() => window.metaloraSeen.end, null, { timeout: limitMs });
  await page.waitForTimeout(800);
  return page.evaluate((complaint) => ({ ...window.metaloraSeen, complaint: document.querySelector(complaint)?.textContent ?? "" }), COMPLAINT);
}

/** Types of our nodes that would be saved with another number of widget values than they had when opened. */
export function nodesThatWouldBeSavedDifferently(page, pack, name) {
  return page.evaluate(
    async ([pack, name]) => {
      const written = await (await window.app.api.fetchApi(`/workflow_templates/${pack}/${name}.json`)).json();
      const count = (node) => node.widgets_values?.length ?? 0;
      const before = new Map(written.nodes.map((node) => [node.id, count(node)]));
      const ours = window.app.graph.serialize().nodes.filter((node) => node.type.startsWith("MetaLoRA_"));
      return ours.filter((node) => count(node) !== before.get(node.id)).map((node) => node.type);
    },
    [pack, name],
  );
}

/** Reports that stand on the nodes, by node type. */
export function reports(page) {
  return page.evaluate(() => {
    const found = {};
    for (const node of window.app.graph.nodes) {
      const panel = node.widgets?.find((widget) => widget.name === "metalora_report")?.element;
      if (panel?.isConnected) found[node.type] = panel.textContent;
    }
    return found;
  });
}

/** Sizes of the pictures that Save Image nodes show, loaded from the server as the page does. */
export function savedPictures(page) {
  return page.evaluate(async () => {
    const sizes = [];
    for (const node of window.app.graph.nodes.filter((node) => node.type === "SaveImage")) {
      for (const picture of window.app.nodeOutputs[node.id]?.images ?? []) {
        const answer = await window.app.api.fetchApi(`/view?${new URLSearchParams(picture)}`);
        const bitmap = await createImageBitmap(await answer.blob());
        sizes.push([bitmap.width, bitmap.height]);
      }
    }
    return sizes;
  });
}

/** Select a node and open its help; returns the page's text and how many of its pictures could be loaded. */
export async function openHelp(page, type) {
  await page.evaluate((type) => {
    const { canvas, graph } = window.app;
    canvas.deselectAll();
    canvas.selectNode(graph.nodes.find((node) => node.type === type));
  }, type);
  await page.click('[data-testid="info-button"]');
  await page.waitForSelector(".node-help-content");
  await page.waitForTimeout(800);
  return page.evaluate(() => {
    const help = document.querySelector(".node-help-content");
    const pictures = [...help.querySelectorAll("img")];
    return { text: help.innerText, pictures: pictures.length, loaded: pictures.filter((img) => img.naturalWidth > 0).length };
  });
}

/** The rules of axe that a part of the page passes, and its faults, such as for those who use no mouse. */
export async function accessibility(page, selector) {
  await page.addScriptTag({ path: createRequire(import.meta.url).resolve("axe-core/axe.min.js") });
  return page.evaluate(async (selector) => {
    const { violations, passes } = await window.axe.run([...document.querySelectorAll(selector)]);
    const told = ({ id, nodes }) => [id, nodes.map(({ html }) => html.slice(0, 200))];
    return { rules: passes.map(({ id }) => id), faults: violations.map(told) };
  }, selector);
}
