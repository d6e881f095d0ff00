// The sidebar tab with the saved identities, as a user finds, adds, renames and deletes there, told as JSON:
// node library.mjs URL CHROMIUM LOCALE SCREENSHOTS|-
import { accessibility, command, openPage, reloadIn } from "./page.mjs";

const [url, chromiumPath, locale, screenshots] = process.argv.slice(2);
const TAB = "metalora-library";
const CARDS = ".metalora-library li";

const { browser, page, errors } = await openPage(url, chromiumPath);
page.on("console", (message) => {
  if (message.type() === "error" && message.text().includes("metalora")) errors.push(message.text());
});
const seen = { errors };

const names = () => page.$$eval(`${CARDS}:not([hidden]) b`, (all) => all.map((one) => one.textContent));
const card = (name) => page.locator(CARDS).filter({ has: page.locator("b", { hasText: new RegExp(`^${name}$`) }) });
const told = (what) => page.locator(`.metalora-library .${what}`).innerText();
const focused = () => page.evaluate(() => document.activeElement.ariaLabel);
const shot = (name) => (screenshots === "-" ? null : page.screenshot({ path: `${screenshots}/library-${name}.png` }));

/** Do something, and wait until the list has so many cards. */
async function until(count, work) {
  await work();
  await page.waitForFunction(([cards, count]) => document.querySelectorAll(cards).length === count, [CARDS, count]);
}

/** How long the busiest frame takes while the list is scrolled through, and the whole list's height. */
const scroll = () =>
  page.evaluate(async () => {
    const list = document.querySelector(".metalora-library ul");
    const frame = () => new Promise((next) => requestAnimationFrame(next));
    const times = [];
    for (let place = 0; place < 40; place++) {
      const started = performance.now();
      list.scrollTop = (place * list.scrollHeight) / 40;
      await frame();
      times.push(performance.now() - started);
    }
    return { median: times.sort((one, other) => one - other)[20], height: list.scrollHeight };
  });

try {
  await page.evaluate((tab) => window.app.extensionManager.sidebarTab.toggleSidebarTab(tab), TAB);
  await page.waitForSelector(CARDS);
  seen.cards = (await names()).length;
  seen.first = (await names())[0];
  seen.hostile = await card("hostile").innerText();
  seen.pictures = await page.$$eval(`${CARDS} img`, (all) => Promise.all(all.map((one) => one.decode().then(() => one.naturalWidth))));
  seen.letter = await card("hostile").locator(".face").innerText();
  seen.buttons = await card("drawn").locator("button").evaluateAll((all) => all.map((one) => one.ariaLabel));
  await shot("open");
  seen.scroll = await scroll();

  const search = page.getByRole("searchbox", { name: "Search identities" });
  await search.fill("drawn mug");
  seen.searched = [await names(), await told("count")];
  await search.fill("hostile");
  seen.axe = await accessibility(page, ".metalora-library");
  await search.fill("");
  await page.getByRole("combobox", { name: "Sort" }).selectOption("byName");
  seen.byName = (await names())[0];

  const before = await page.evaluate(() => window.app.graph.nodes.length);
  await card("drawn").locator("button").first().focus();
  await page.keyboard.press("Enter");
  await page.waitForFunction((before) => window.app.graph.nodes.length > before, before);
  await page.waitForTimeout(1500);
  seen.added = await page.evaluate(async () => {
    const node = window.app.graph.nodes.at(-1);
    const { output } = await window.app.graphToPrompt();
    return { ...output[node.id], _meta: undefined, selected: Object.keys(window.app.canvas.selected_nodes).includes(String(node.id)) };
  });

  await until(seen.cards - 1, () => card("drawn").getByRole("button", { name: "Delete: drawn" }).click());
  await page.waitForFunction(() => document.activeElement?.textContent === "Undo");
  await page.evaluate(() => window.app.api.dispatchEvent(new CustomEvent("execution_success", { detail: {} })));
  await page.waitForTimeout(1000);
  seen.deleted = [await told("told"), (await names()).includes("drawn")];
  await shot("deleted");
  await until(seen.cards, () => page.keyboard.press("Enter"));
  await page.waitForFunction(() => document.activeElement.ariaLabel?.startsWith("Add"));
  seen.undone = [(await names()).includes("drawn"), await focused()];

  await card("drawn").getByRole("button", { name: "Rename: drawn" }).click();
  const field = page.locator(".p-dialog input, [role=dialog] input").first();
  await field.fill("painted");
  await field.press("Enter");
  await page.waitForFunction(() => [...document.querySelectorAll(".metalora-library li b")].some((name) => name.textContent === "painted"));
  await page.waitForFunction(() => document.activeElement.ariaLabel?.startsWith("Add"));
  seen.focused = await focused();
  seen.renamed = (await names()).filter((name) => ["drawn", "painted"].includes(name));
  await card("painted").getByRole("button", { name: "Rename: painted" }).click();
  await field.fill("../out");
  await field.press("Enter");
  await page.waitForFunction(() => document.querySelector(".metalora-library .told").textContent.includes("leads outside"));

  seen.hacked = await page.evaluate(() => "hacked" in window || document.querySelectorAll('img[src="x"]').length > 0);
  await page.evaluate(() => window.app.extensionManager.sidebarTab.toggleSidebarTab("metalora-library"));
  await reloadIn(page, locale);
  await command(page, `Workspace.ToggleSidebarTab.${TAB}`);
  await page.waitForSelector(CARDS);
  seen.japanese = [await page.locator(".metalora-library select").innerText(), await card("hostile").innerText()];
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
