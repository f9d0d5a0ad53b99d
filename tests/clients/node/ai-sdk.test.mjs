// The Vercel AI SDK with its provider for OpenAI-compatible servers.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, Output, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { baseURL, fail, keys, model, newMark, prompts, untilFree, wire } from "./stack.mjs";

function dial(apiKey = keys[0]) {
  const seen = wire();
  const provider = createOpenAICompatible({
    name: "morpheus",
    baseURL,
    apiKey,
    fetch: seen.fetch,
    includeUsage: true,
    supportsStructuredOutputs: true,
  });
  return { seen, model: provider(model) };
}

const quiet = { onError: () => {} };

test("a text has its usage and its reason to end, and a stream the same (C36)", async () => {
  const mark = newMark();
  const whole = await generateText({ model: dial().model, prompt: mark });
  assert.ok(whole.text.includes(mark));
  assert.equal(whole.finishReason, "stop");
  const stream = streamText({ model: dial().model, prompt: mark });
  let said = "";
  for await (const text of stream.textStream) said += text;
  assert.equal(said, whole.text);
  assert.equal(await stream.finishReason, "stop");
  assert.equal((await stream.usage).totalTokens, whole.usage.totalTokens);
});

for (const generate of [generateText, streamText])
  test(`a tool is called and its result answered: ${generate.name} (F23)`, async () => {
    const mark = newMark();
    const get_weather = tool({
      inputSchema: z.object({ city: z.string() }),
      execute: async ({ city }) => `rain in ${city}`,
    });
    const made = await generate({
      model: dial().model,
      prompt: mark,
      tools: { get_weather },
      stopWhen: stepCountIs(3),
    });
    assert.ok((await made.text).includes(`rain in ${mark}`));
    assert.equal((await made.steps).length, 2);
    const [, second] = await prompts(mark);
    assert.equal(JSON.parse(second.body).messages.at(-1).role, "tool");
  });

test("a schema makes an object of an answer", async () => {
  const mark = newMark();
  const output = Output.object({ schema: z.object({ city: z.string(), days: z.number() }) });
  const made = await generateText({ model: dial().model, prompt: mark, output });
  assert.deepEqual(made.output, { city: mark, days: 1 });
});

test("a stream that breaks off is an error and not a short answer (C34)", async () => {
  const mark = newMark();
  await fail("truncate", mark, { at: 3 });
  const errors = [];
  const stream = streamText({ model: dial().model, prompt: mark, ...quiet });
  for await (const part of stream.fullStream) if (part.type === "error") errors.push(part.error);
  assert.equal(errors.length, 1);
  assert.match(JSON.stringify(errors[0]) + String(errors[0]), /broke off/);
});

test("a provider that is full is asked again when it said (C19)", async () => {
  const mark = newMark();
  const { seen, model } = dial();
  await fail("model_error", mark);
  assert.ok((await generateText({ model, prompt: mark })).text.includes(mark));
  assert.deepEqual(seen.statuses, [503, 200]);
  assert.ok(seen.at[1] - seen.at[0] >= 1000 * Number(seen.headers[0].get("retry-after")));
});

test("a wrong key is an error that is not tried again", async () => {
  const { seen, model } = dial("sk-nonsense");
  await assert.rejects(
    generateText({ model, prompt: "hello" }),
    (error) => APICallError.isInstance(error) && error.statusCode === 401,
  );
  assert.equal(seen.statuses.length, 1);
});

test("an aborted stream is cancelled (C33)", async () => {
  const mark = newMark();
  await fail("pace", mark, { seconds: 0.25 });
  const leaving = new AbortController();
  const stream = streamText({ model: dial().model, prompt: mark, abortSignal: leaving.signal, ...quiet });
  for await (const part of stream.fullStream) if (part.type === "text-delta") leaving.abort();
  await untilFree(mark);
  assert.equal((await prompts(mark)).length, 1);
});
