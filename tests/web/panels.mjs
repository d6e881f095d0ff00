// What the nodes' panels show through a failure, a cancelled run, a reload and a change of tabs, told as JSON:
// node panels.mjs URL CHROMIUM PACK
import { command, openExample, openPage, reloadIn, reports, setSetting } from "./page.mjs";

const [url, chromiumPath, pack] = process.argv.slice(2);
const LIMIT_MS = 300_000;
const ADAPT = "MetaLoRA_AdaptIdentity";
const FAST = { [ADAPT]: { steps: 20 }, KSampler: { steps: 2 }, EmptySD3LatentImage: { batch_size: 1 } };

/** Set widgets by node type and name, and press Run. */
async function run(page, widgets) {
  await page.evaluate((widgets) => {
    for (const node of window.app.graph.nodes)
      for (const widget of node.widgets ?? []) widget.value = widgets[node.type]?.[widget.name] ?? widget.value;
  }, widgets);
  await page.click('[data-testid="queue-button"]');
}

/** Wait until the panel of a node type holds a text, and return it. */
async function panelWith(page, type, text) {
  const holds = ([type, text]) => {
    const node = window.app.graph.nodes.find((node) => node.type === type);
    return node?.widgets?.find((widget) => widget.name === "metalora_report")?.element.textContent.includes(text);
  };
  await page.waitForFunction(holds, [type, text], { timeout: LIMIT_MS });
  return (await reports(page))[type];
}

/** The reports, the points of the loss line, and the pictures of the contact sheet. */
async function shown(page) {
  await panelWith(page, ADAPT, "Saved");
  await page.waitForTimeout(1500);
  const line = await page.evaluate(() => [...document.querySelectorAll(".metalora-report polyline")].map((line) => line.getAttribute("points")).join(""));
  const sheets = await page.evaluate(() => {
    const prepare = window.app.graph.nodes.find((node) => node.type === "MetaLoRA_PrepareReferences");
    return window.app.nodeOutputs[prepare.id]?.images?.length ?? 0;
  });
  return { reports: await reports(page), line, sheets };
}

/** What the panel of a node without a report shows when it fails, and when it runs again, by the server's messages. */
function failAndStartAgain(page) {
  return page.evaluate(() => {
    const node = window.app.graph.nodes.find((node) => node.type === "MetaLoRA_LoadPocketModel");
    const shown = () => node.widgets.find((widget) => widget.name === "metalora_report").element.textContent;
    const tell = (kind, detail) => window.app.api.dispatchEvent(new CustomEvent(kind, { detail }));
    tell("execution_error", { node_id: String(node.id), exception_message: "no such subject" });
    const failed = shown();
    tell("executing", String(node.id));
    return [failed, shown()];
  });
}

const { browser, page, errors } = await openPage(url, chromiumPath);
const seen = { errors };
try {
  await openExample(page, pack, "01_adapt_and_generate");
  await run(page, FAST);
  seen.run = await shown(page);
  await command(page, "Comfy.NewBlankWorkflow");
  await page.waitForTimeout(1500);
  await command(page, "Workspace.PreviousOpenedWorkflow");
  seen.tab = await shown(page);
  await reloadIn(page, "en");
  seen.reload = await shown(page);

  await run(page, { [ADAPT]: { steps: 3000 } });
  await panelWith(page, ADAPT, "of 3000, loss");
  await page.evaluate(() => window.app.api.interrupt());
  seen.cancelled = await panelWith(page, ADAPT, "Cancelled");
  void command(page, "MetaLoRA.DeleteUnfinished");
  const question = page.locator(".p-dialog, [role=dialog]").filter({ hasText: "unfinished" });
  seen.question = await question.innerText();
  await question.getByRole("button", { name: "Confirm" }).click();
  seen.deleted = await page.getByText(/^Deleted: /).first().innerText();

  await run(page, { ...FAST, MetaLoRA_PrepareReferences: { trigger: " " } });
  seen.failed = await panelWith(page, "MetaLoRA_PrepareReferences", "Failed");
  seen.failures = await failAndStartAgain(page);
  await setSetting(page, "Comfy.Locale", "ja");
  await reloadIn(page, "ja");
  seen.japanese = await panelWith(page, "MetaLoRA_PrepareReferences", "失敗");
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
