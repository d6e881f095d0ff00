// One visit to the page, told as JSON: node visit.mjs URL CHROMIUM PACK SCREENSHOTS|- EXAMPLE...
// The first example is also run, in the classic canvas and in Nodes 2.0 where the page has it.
import { missingFiles, nodesThatWouldBeSavedDifferently, openExample, openHelp, openPage, reloadIn } from "./page.mjs";
import { reports, runOnce, savedPictures, setSetting, titleOf } from "./page.mjs";

const [url, chromiumPath, pack, screenshots, ...examples] = process.argv.slice(2);
const RUN_LIMIT_MS = 240_000;
// Pages of 2025 hold an unfinished trial of Nodes 2.0 under the same setting; help does not open in it.
const FIRST_MINOR_WITH_NODES2 = 33;
const FAST = { MetaLoRA_AdaptIdentity: { steps: 12 }, KSampler: { steps: 4 }, EmptySD3LatentImage: { batch_size: 1 } };

/** Turn the expensive widgets down, as a user in a hurry would. */
function hurry(page, seed) {
  return page.evaluate(
    ([fast, seed]) => {
      for (const node of window.app.graph.nodes)
        for (const widget of node.widgets ?? []) {
          const value = fast[node.type]?.[widget.name];
          if (value !== undefined) widget.value = value;
          // Another seed each time: what was learned and drawn before would only be read again.
          if (widget.name === "seed") widget.value = 100 + seed;
        }
    },
    [FAST, seed],
  );
}

const { browser, page, errors } = await openPage(url, chromiumPath);
const frontend = await page.evaluate(() => window.__COMFYUI_FRONTEND_VERSION__);
const [major, minor] = frontend.split(".").map(Number);
const modes = major > 1 || minor >= FIRST_MINOR_WITH_NODES2 ? ["classic", "nodes2"] : ["classic"];
const visit = { errors, frontend, modes: {}, missing: {} };
const large = examples.filter((name) => name.startsWith("02"));
try {
  for (const [seed, mode] of modes.entries()) {
    if (modes.length > 1) await setSetting(page, "Comfy.VueNodes.Enabled", mode === "nodes2");
    const seen = (visit.modes[mode] = { opened: {} });
    for (const example of [...examples].reverse()) seen.opened[example] = await openExample(page, pack, example);
    seen.help = await openHelp(page, "MetaLoRA_AdaptIdentity");
    if (screenshots !== "-") await page.screenshot({ path: `${screenshots}/help-${mode}.png` });
    await hurry(page, seed);
    seen.run = await runOnce(page, RUN_LIMIT_MS);
    seen.reports = await reports(page);
    seen.pictures = await savedPictures(page);
    seen.saved_widgets_changed = await nodesThatWouldBeSavedDifferently(page, pack, examples[0]);
    if (screenshots !== "-") await page.screenshot({ path: `${screenshots}/run-${mode}.png` });
  }
  for (const name of large) visit.missing[name] = await missingFiles(page, pack, name);
  await reloadIn(page, "ja");
  await openExample(page, pack, examples[0]);
  const help = await openHelp(page, "MetaLoRA_AdaptIdentity");
  visit.japanese = { title: await titleOf(page, "MetaLoRA_AdaptIdentity"), help: help.text };
} finally {
  await browser.close();
}
console.log(JSON.stringify(visit));
