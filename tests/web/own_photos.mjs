// From an empty ComfyUI to pictures of one's own photos, as a user does it: counted clicks and one drop, told as JSON:
// node own_photos.mjs URL CHROMIUM MODE PHOTOS SCREENSHOTS|-
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { openPage, reloadIn, reports, savedPictures, setSetting } from "./page.mjs";

const [url, chromiumPath, mode, folder, screenshots] = process.argv.slice(2);
const LIMIT_MS = 300_000;
const TILE = ".metalora-photos .metalora-photo";
const files = readdirSync(folder).sort().map((name) => ({ name, data: readFileSync(join(folder, name)).toString("base64") }));

const { browser, page, errors } = await openPage(url, chromiumPath);
const seen = { errors, clicks: 0 };

async function click(target) {
  seen.clicks++;
  await target.click();
}

/** Drop files on an element as a file manager does. */
function drop(selector) {
  return page.evaluate(
    ([selector, files]) => {
      const transfer = new DataTransfer();
      for (const { name, data } of files) {
        const bytes = Uint8Array.from(atob(data), (mark) => mark.charCodeAt(0));
        transfer.items.add(new File([bytes], name, { type: "image/png" }));
      }
      const target = document.querySelector(selector);
      for (const kind of ["dragenter", "dragover", "drop"])
        target.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
    },
    [selector, files],
  );
}

/** The tiles as one sees them. */
function tiles() {
  return page.evaluate((tile) => {
    const text = (element, name) => element.querySelector(name)?.title ?? "";
    return [...document.querySelectorAll(tile)].map((element) => {
      const picture = element.querySelector("img");
      return { name: picture.alt, size: [picture.naturalWidth, picture.naturalHeight], badge: text(element, ".metalora-badge") };
    });
  }, TILE);
}

const loaded = () => page.waitForFunction(([tile, count]) => {
  const pictures = [...document.querySelectorAll(`${tile} img`)];
  return pictures.length === count && pictures.every((picture) => picture.naturalWidth);
}, [TILE, files.length]);

/** What the widget holds, in the graph as it would be saved and as it would be queued. */
function value() {
  return page.evaluate(async () => {
    const ours = ({ type, class_type }) => (type ?? class_type) === "MetaLoRA_PrepareReferences";
    const saved = window.app.graph.serialize().nodes.find(ours);
    const queued = Object.values((await window.app.graphToPrompt()).output).find(ours);
    return { saved: saved.widgets_values, queued: queued.inputs.photos };
  });
}

const shot = (name) => (screenshots === "-" ? null : page.screenshot({ path: join(screenshots, `${mode}-${name}.png`) }));

try {
  await setSetting(page, "Comfy.VueNodes.Enabled", mode === "nodes2");
  await page.evaluate(() => window.app.graph.clear());
  await click(page.locator(".templates-tab-button").first());
  await click(page.getByRole("dialog").getByText("meta-lora", { exact: true }).first());
  await click(page.getByRole("dialog").getByText(/01.adapt.and.generate/).first());
  await page.waitForFunction(() => window.app.graph.nodes.some((node) => node.type === "MetaLoRA_PrepareReferences"));
  await page.waitForTimeout(1500);
  await drop(".metalora-photos");
  await loaded();
  seen.dropped = await tiles();
  seen.value = await value();
  await shot("dropped");
  seen.nodes = await page.evaluate(() => window.app.graph.nodes.length);
  await page.evaluate(() => {
    for (const end of ["execution_success", "execution_error"])
      window.app.api.addEventListener(end, ({ detail }) => (window.metaloraEnd = `${end} ${detail.exception_message ?? ""}`.trim()));
  });
  const began = Date.now();
  await click(page.locator('[data-testid="queue-button"]'));
  await page.waitForFunction(() => window.metaloraEnd, null, { timeout: LIMIT_MS });
  await page.waitForTimeout(1500);
  Object.assign(seen, { seconds: (Date.now() - began) / 1000, end: await page.evaluate(() => window.metaloraEnd) });
  Object.assign(seen, { pictures: await savedPictures(page), reports: await reports(page), judged: await tiles() });
  await shot("run");
  // Not counted: what one does with the photos afterwards.
  await page.evaluate((tile) => document.querySelectorAll(`${tile} button[aria-label="Move forward"]`)[0].click(), TILE);
  await page.evaluate((tile) => [...document.querySelectorAll(`${tile} button[aria-label="Remove"]`)].at(-1).click(), TILE);
  await page.evaluate((tile) => {
    const field = document.querySelector(`${tile} input`);
    field.value = "a person\toutside";
    field.dispatchEvent(new Event("change"));
  }, TILE);
  seen.arranged = await value();
  await page.waitForTimeout(1500);
  await reloadIn(page, "en");
  await page.waitForFunction((tile) => document.querySelectorAll(tile).length, TILE);
  seen.reloaded = await value();
  await shot("reloaded");
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
