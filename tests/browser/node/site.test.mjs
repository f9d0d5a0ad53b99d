// Every page of the documentation, as a person sees it: on a desk and on a phone, by light and by dark.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";

import { DESK, PHONE, launch, origin, pages, watched } from "./site.mjs";

const AXE = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
/** A page of each kind: what one of them has, all of its kind have. */
const KINDS = ["", "/getting-started", "/sessions-and-stake", "/api", "/api/chat/create-chat-completion", "/errors", "/settings", "/events-reference", "/decisions", "/decisions/0007-two-step-opening-with-tagged-stakes", "/benchmarks", "/reference"].map((path) => `/docs${path}`);

let browser;
let all;
let axe;
before(async () => {
  [browser, all, axe] = await Promise.all([launch(), pages(), readFile(AXE, "utf8")]);
});
after(() => browser?.close());

/** What axe finds, a line each. The console's own page is looked at as it stands when it has been drawn. */
async function found(page) {
  // evaluated by the debugger: no policy of the page lets a script be added to it, which is as it should be
  await page.evaluate(axe);
  const { violations } = await page.evaluate((values) => axe.run(document, { runOnly: { type: "tag", values } }), RULES);
  return violations.flatMap(({ id, impact, nodes }) => nodes.map(({ target, failureSummary }) => `${id} (${impact}) at ${target}: ${failureSummary.replace(/\s+/g, " ")}`));
}

/** Visit these pages, and return what `look` has to say of each, with its address before it. */
async function visit(paths, options, look) {
  const { context, page, wrong } = await watched(browser, options);
  const said = [];
  for (const path of paths) {
    wrong.length = 0;
    await page.goto(origin + path, { waitUntil: "load" });
    if (path === "/docs/reference") await page.locator(".opblock").first().waitFor();
    said.push(...(await look(page, path)).concat(wrong).map((line) => `${path}: ${line}`));
  }
  await context.close();
  return said;
}

const wide = async (page) => {
  const [needed, there] = await page.evaluate(() => [document.scrollingElement.scrollWidth, window.innerWidth]);
  return needed > there + 1 ? [`is ${needed} wide on a screen of ${there}`] : [];
};

test("there are pages, one of each kind among them", () => {
  assert.ok(all.length > 80, `${all.length} pages`);
  assert.deepEqual(KINDS.filter((path) => !all.includes(path)), []);
});

test("pages render, ask no other host, and axe finds nothing", { timeout: 600_000 }, async () => {
  const said = await visit(all, {}, async (page) => {
    const title = await page.title();
    const headings = await page.locator("h1").count();
    return [...(title ? [] : ["has no title"]), ...(headings === 1 ? [] : [`has ${headings} headings`]), ...(await found(page))];
  });
  assert.deepEqual(said, []);
});

test("in the dark axe finds nothing", { timeout: 300_000 }, async () => {
  assert.deepEqual(await visit(KINDS, { colorScheme: "dark" }, found), []);
});

test("on a phone nothing has to be moved sideways, and axe finds nothing", { timeout: 600_000 }, async () => {
  const phone = { viewport: PHONE, isMobile: true, hasTouch: true };
  const said = await visit(all, phone, async (page, path) => [...(await wide(page)), ...(KINDS.includes(path) ? await found(page) : [])]);
  assert.deepEqual(said, []);
});

test("without scripts the words are there", async () => {
  const context = await browser.newContext({ javaScriptEnabled: false, viewport: DESK });
  const page = await context.newPage();
  await page.goto(`${origin}/docs/getting-started`);
  assert.match(await page.locator("main, [role=main]").innerText(), /curl/);
  await context.close();
});

test("what is copied names the gateway that the page came from", async () => {
  const { context, page } = await watched(browser, { permissions: ["clipboard-read", "clipboard-write"] });
  await page.goto(`${origin}/docs/getting-started`);
  await page.locator(".highlight-sh").first().hover();
  await page.locator(".highlight-sh button.copybtn").first().click();
  await page.locator("button.copybtn.success").first().waitFor();
  assert.match(await page.evaluate(() => navigator.clipboard.readText()), new RegExp(`^BASE_URL=${origin}/api/v1\n`));
  assert.ok(!(await page.locator("body").innerText()).includes("gateway.example"));
  await context.close();
});

test("search finds a page by its words", async () => {
  const { context, page, wrong } = await watched(browser);
  await page.goto(`${origin}/docs`);
  await page.locator("input[name=q]").first().fill("renewal stake");
  await page.keyboard.press("Enter");
  const result = page.locator("#search-results li a", { hasText: /stake/i }).first();
  await result.waitFor();
  await result.click();
  assert.match(await page.locator("main, [role=main]").innerText(), /stake/i);
  assert.deepEqual(wrong, []);
  await context.close();
});
