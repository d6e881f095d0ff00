// Choosing a step by its sample picture, as a user does it with the keyboard and the mouse, told as JSON:
// node samples.mjs URL CHROMIUM PACK MODE SCREENSHOTS|-
import { accessibility, openExample, openPage, reloadIn, reports, setSetting } from "./page.mjs";

const [url, chromiumPath, pack, mode, screenshots] = process.argv.slice(2);
const LIMIT_MS = 300_000;
const ADAPT = "MetaLoRA_AdaptIdentity";
const BUTTONS = ".metalora-samples button";
const FAST = { [ADAPT]: { steps: 20 }, KSampler: { steps: 4 }, EmptySD3LatentImage: { batch_size: 1 } };

const { browser, page, errors } = await openPage(url, chromiumPath);
const seen = { errors };

/** The strip as one sees it. */
function strip() {
  return page.evaluate((buttons) => {
    const found = [...document.querySelectorAll(buttons)];
    return {
      steps: found.map((button) => button.textContent),
      pressed: found.map((button) => button.getAttribute("aria-pressed")),
      labels: found.map((button) => button.getAttribute("aria-label")),
      sizes: found.map((button) => button.querySelector("img").naturalWidth),
      group: found[0]?.parentElement.getAttribute("aria-label"),
      told: found[0]?.parentElement.nextElementSibling.textContent,
    };
  }, BUTTONS);
}

/** The picture that was saved last, as the bytes that the server has of it. */
function picture() {
  return page.evaluate(async () => {
    const save = window.app.graph.nodes.find((node) => node.type === "SaveImage");
    const [file] = window.app.nodeOutputs[save.id].images.slice(-1);
    const bitmap = await createImageBitmap(await (await window.app.api.fetchApi(`/view?${new URLSearchParams(file)}`)).blob());
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
    return [...canvas.getContext("2d").getImageData(0, 0, bitmap.width, bitmap.height).data].join();
  });
}

/** What the choice is, in the graph as it would be saved and as it would be queued. */
function value() {
  return page.evaluate(async (type) => {
    const node = window.app.graph.nodes.find((node) => node.type === type);
    const saved = window.app.graph.serialize().nodes.find((one) => one.type === type);
    const queued = (await window.app.graphToPrompt()).output[node.id];
    return { saved: saved.widgets_values.at(-1), queued: queued.inputs.use_step };
  }, ADAPT);
}

/** Press Run and wait for the end; says how it ended, what was trained, and how many pictures of steps arrived. */
async function run() {
  await page.evaluate(() => Object.assign(window.metaloraSeen, { end: "", trained: 0, arrived: [] }));
  await page.click('[data-testid="queue-button"]');
  await page.waitForFunction(() => window.metaloraSeen.end, null, { timeout: LIMIT_MS });
  await page.waitForTimeout(1500);
  const told = await page.evaluate(() => ({ ...window.metaloraSeen }));
  return { ...told, report: (await reports(page))[ADAPT], strip: await strip(), picture: await picture() };
}

const shot = (name) => (screenshots === "-" ? null : page.screenshot({ path: `${screenshots}/${mode}-${name}.png` }));

try {
  await setSetting(page, "Comfy.VueNodes.Enabled", mode === "nodes2");
  await openExample(page, pack, "01_adapt_and_generate");
  await page.evaluate((fast) => {
    window.metaloraSeen = {};
    const { api, graph } = window.app;
    api.addEventListener("metalora.progress", () => window.metaloraSeen.trained++);
    api.addEventListener("metalora.sample", ({ detail }) => window.metaloraSeen.arrived.push(detail.step));
    for (const end of ["execution_success", "execution_error"])
      api.addEventListener(end, ({ detail }) => (window.metaloraSeen.end = `${end} ${detail.exception_message ?? ""}`.trim()));
    for (const node of graph.nodes)
      for (const widget of node.widgets ?? []) widget.value = fast[node.type]?.[widget.name] ?? widget.value;
  }, FAST);
  seen.first = await run();
  await shot("trained");

  await page.locator(BUTTONS).nth(1).focus();
  await page.keyboard.press("Enter");
  seen.chosen = { strip: await strip(), value: await value(), focused: await page.evaluate(() => document.activeElement.textContent) };
  seen.second = await run();
  await shot("chosen");
  seen.axe = await accessibility(page, ".metalora-report:has(.metalora-samples)");
  await page.waitForTimeout(1500);
  await reloadIn(page, "en");
  await page.waitForFunction((buttons) => document.querySelectorAll(buttons).length, BUTTONS);
  seen.reloaded = { strip: await strip(), value: await value() };

  await page.evaluate((buttons) => [...document.querySelectorAll(buttons)].at(-1).click(), BUTTONS);
  seen.last = { strip: await strip(), value: await value() };
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
