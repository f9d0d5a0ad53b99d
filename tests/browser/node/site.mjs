// A browser with the documentation of a running gateway. `test_site.py` starts both.
import { existsSync } from "node:fs";

import { chromium } from "playwright-core";

const { ORIGIN, API_KEY, MODEL, CHROMIUM } = process.env;
if (!ORIGIN) throw new Error("these tests need a running stack: make test-browser");

export const origin = ORIGIN;
export const apiKey = API_KEY;
export const model = MODEL;
export const PHONE = { width: 390, height: 844 };
export const DESK = { width: 1280, height: 900 };

const executablePath = [CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser"].find((path) => path && existsSync(path));

/** Chromium without the calls home that it makes by itself. */
export const launch = () =>
  chromium.launch({
    executablePath,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });

/** The addresses of all pages: the first, and those that the documentation for language models lists. */
export async function pages() {
  const listed = await (await fetch(`${origin}/llms.txt`)).text();
  const paths = [...listed.matchAll(/\]\((\/docs[^)\s]*)\.md\)/g)].map(([, path]) => path.replace(/\/index$/, ""));
  return [...new Set(["/docs", ...paths])];
}

/** A page that notes what goes wrong in it: other hosts that are asked, answers that failed, complaints of the browser. */
export async function watched(browser, options = {}) {
  const context = await browser.newContext({ viewport: DESK, ...options });
  const page = await context.newPage();
  const wrong = [];
  page.on("request", (request) => {
    const url = new URL(request.url());
    if (url.origin !== origin && url.protocol !== "data:" && url.protocol !== "blob:") wrong.push(`asks ${url.host}`);
  });
  page.on("response", (response) => {
    if (response.status() >= 400) wrong.push(`${response.status()} ${new URL(response.url()).pathname}`);
  });
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) wrong.push(`${message.type()}: ${message.text()}`);
  });
  page.on("pageerror", (error) => wrong.push(`exception: ${error.message}`));
  return { context, page, wrong };
}
