// The running stack as its tests see it: what it is reached by, and the provider behind it. `test_node.py` starts it.
import { randomBytes } from "node:crypto";
import { setTimeout as pause } from "node:timers/promises";

const { BASE_URL, ROUTER_URL, MODEL, API_KEYS, RESTRICTED_KEY, UNFUNDED_KEY } = process.env;
if (!API_KEYS) throw new Error("these tests need a running stack: make test-node");

export const baseURL = BASE_URL;
export const model = MODEL;
export const restrictedKey = RESTRICTED_KEY;
export const unfundedKey = UNFUNDED_KEY;
/** Keys with an open session each: who has one to himself stands in nobody's line. */
export const keys = JSON.parse(API_KEYS);

/** Words that no other prompt has. */
export const newMark = () => `mark ${randomBytes(6).toString("hex")}`;

export const asked = (content, more = {}) => ({ model, messages: [{ role: "user", content }], ...more });

export const weather = {
  type: "function",
  function: {
    name: "get_weather",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
};

/** What a router says of a provider that never answered. */
export const neverAnswered =
  "provider request failed: read timed out after 3 retries: read tcp 10.77.0.1:51000->10.77.0.11:3333: i/o timeout";

/** A data URL of so many megabytes. */
export const picture = (megabytes) =>
  `data:image/png;base64,${randomBytes((megabytes * 1024 * 1024 * 3) / 4).toString("base64")}`;

/** A fetch that notes what it sends, when, and the answers' statuses and headers. */
export function wire() {
  const seen = { sent: [], at: [], statuses: [], headers: [] };
  seen.fetch = async (url, options) => {
    seen.sent.push(options.body);
    seen.at.push(performance.now());
    const answer = await fetch(url, options);
    seen.statuses.push(answer.status);
    seen.headers.push(answer.headers);
    return answer;
  };
  return seen;
}

async function simulator(path, body, method = "POST") {
  const answer = await fetch(ROUTER_URL + path, { method, body: body && JSON.stringify(body) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

/** Have the next prompts with `mark` in them struck by a fault of the simulator, all of them if `count` is null. Gives its id. */
export async function fail(action, mark, params = {}, count = 1) {
  const fault = await simulator("/sim/faults", { kind: "chat", action, count, params: { match: mark, ...params } });
  return fault.id;
}

/** Remove one fault; what hung in it goes on. */
export const relent = (id) => simulator(`/sim/faults/${id}`, undefined, "DELETE");

/** The last prompts with `mark` in them as the router got them. */
export const prompts = (mark) => simulator(`/sim/prompts?match=${encodeURIComponent(mark)}`, undefined, "GET");

/** Wait for a condition. */
export async function until(condition, what, seconds = 10) {
  const end = performance.now() + seconds * 1000;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`no ${what} within ${seconds} s`);
    await pause(20);
  }
}

export const untilFree = (mark) =>
  until(async () => (await prompts(mark)).every((prompt) => !prompt.running), "end of the prompt", 1);
