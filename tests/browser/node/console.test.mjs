// The console that sends requests: what it keeps, what it asks, how it shows what it is answered.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { apiKey, launch, origin, watched } from "./site.mjs";

let browser;
before(async () => {
  browser = await launch();
});
after(() => browser?.close());

/** The console with a key, on an operation that is ready to be sent. */
async function ready(method, path) {
  const opened = await watched(browser);
  const { page } = opened;
  await page.goto(`${origin}/docs/reference`);
  await page.locator(".opblock").first().waitFor();
  await page.locator("button.authorize").first().click();
  const form = page.locator(".auth-container").filter({ hasText: /api.?key/i }).first();
  await form.locator("input").fill(apiKey);
  await form.locator("button[type=submit]").click();
  await page.locator(".modal-ux .btn-done").first().click();
  const block = page.locator(".opblock").filter({ has: page.locator(`.opblock-summary-path[data-path="${path}"]`) }).filter({ has: page.locator(".opblock-summary-method", { hasText: new RegExp(`^${method}$`) }) });
  await block.locator(".opblock-summary-control").click();
  await block.locator(".try-out__btn").click();
  return { ...opened, block };
}

const sent = (page, path) => {
  const seen = [];
  page.on("request", (request) => {
    if (new URL(request.url()).pathname === path) seen.push(request);
  });
  return seen;
};

test("a request is sent to the page's own host, with the key, and its answer is text", async () => {
  const { context, page, wrong, block } = await ready("GET", "/api/v1/session");
  const requests = sent(page, "/api/v1/session");
  await block.locator("button.execute").click();
  await block.locator(".live-responses-table .response-col_status", { hasText: "200" }).waitFor();
  assert.equal(requests.length, 1);
  assert.equal(new URL(requests[0].url()).origin, origin);
  assert.equal(requests[0].headers().authorization, `Bearer ${apiKey}`);
  assert.deepEqual(wrong, []);
  await context.close();
});

test("the key is in the page's memory and nowhere else", async () => {
  const { context, page } = await ready("GET", "/api/v1/session");
  const kept = await page.evaluate(async () => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, await indexedDB.databases(), await caches.keys(), location.href]));
  assert.ok(!kept.includes(apiKey), kept);
  await page.reload();
  await page.locator(".opblock").first().waitFor();
  assert.equal(await page.locator("button.authorize.locked").count(), 0);
  await context.close();
});

test("what spends is asked about, and a no sends nothing", async () => {
  const { context, page, block } = await ready("POST", "/api/v1/session/closesession");
  const requests = sent(page, "/api/v1/session/closesession");
  const questions = [];
  page.once("dialog", (dialog) => (questions.push(dialog.message()), dialog.dismiss()));
  await block.locator("button.execute").click();
  await page.waitForFunction(() => !document.querySelector(".opblock.is-open .loading"));
  assert.equal(questions.length, 1);
  assert.equal(requests.length, 0);
  page.once("dialog", (dialog) => dialog.accept());
  await block.locator("button.execute").click();
  await block.locator(".live-responses-table .response-col_status", { hasText: "200" }).waitFor();
  assert.equal(requests.length, 1);
  await context.close();
});

test("an answer that holds HTML is shown, not rendered", async () => {
  const { context, page, block } = await ready("GET", "/api/v1/models");
  const planted = '<img src=x onerror="window.planted=1"><script>window.planted=1</script>';
  await page.route("**/api/v1/models", (route) =>
    route.fulfill({ status: 200, contentType: "application/json", body: JSON.stringify({ object: "list", data: [{ id: planted }] }) }));
  await block.locator("button.execute").click();
  await block.locator(".live-responses-table .response-col_status", { hasText: "200" }).waitFor();
  assert.match(await block.locator(".live-responses-table").innerText(), /onerror/);
  assert.equal(await page.evaluate(() => window.planted), undefined);
  assert.equal(await block.locator(".live-responses-table img").count(), 0);
  await context.close();
});
