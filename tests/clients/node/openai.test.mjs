// OpenAI's Node SDK with its defaults.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import {
  asked,
  baseURL,
  fail,
  keys,
  model,
  neverAnswered,
  newMark,
  picture,
  prompts,
  relent,
  restrictedKey,
  unfundedKey,
  until,
  untilFree,
  weather,
  wire,
} from "./stack.mjs";

function dial(apiKey = keys[0], options = {}) {
  const seen = wire();
  return { seen, client: new OpenAI({ baseURL, apiKey, fetch: seen.fetch, ...options }) };
}

async function streamed(client, request) {
  let said = "";
  for await (const chunk of await client.chat.completions.create({ ...request, stream: true }))
    for (const choice of chunk.choices) said += choice.delta.content ?? "";
  return said;
}

const Trip = z.object({ city: z.string(), days: z.number() });

describe("what is asked and answered", () => {
  test("models are listed and found by name", async () => {
    const { client } = dial();
    const ids = [];
    for await (const one of client.models.list()) ids.push(one.id);
    assert.ok(ids.includes(model));
    assert.equal((await client.models.retrieve(model)).object, "model");
  });

  test("parameters known and unknown reach the provider byte for byte (F24)", async () => {
    const { client, seen } = dial();
    const mark = newMark();
    const answer = await client.chat.completions.create(
      asked(mark, {
        n: 2,
        logprobs: true,
        top_logprobs: 2,
        seed: 7,
        stop: ["never said"],
        provider_only: { deep: [1.5, null, "ü"] },
      }),
    );
    const [prompt] = await prompts(mark);
    assert.equal(prompt.body, seen.sent[0]);
    assert.deepEqual(JSON.parse(prompt.body).provider_only, { deep: [1.5, null, "ü"] });
    assert.equal(answer.choices.length, 2);
    for (const choice of answer.choices) {
      const tokens = choice.logprobs.content.map((token) => token.token).join("");
      assert.equal(tokens, choice.message.content);
    }
  });

  test("a stream says the same as an object, with the same usage at its end (C36)", async () => {
    const { client } = dial();
    const mark = newMark();
    const whole = await client.chat.completions.create(asked(mark));
    const chunks = [];
    const request = asked(mark, { stream: true, stream_options: { include_usage: true } });
    for await (const chunk of await client.chat.completions.create(request)) chunks.push(chunk);
    const said = chunks.flatMap((chunk) => chunk.choices.map((choice) => choice.delta.content ?? "")).join("");
    assert.equal(said, whole.choices[0].message.content);
    assert.deepEqual(chunks.at(-1).choices, []);
    assert.deepEqual(chunks.at(-1).usage, whole.usage);
    assert.equal(chunks.filter((chunk) => chunk.usage).length, 1);
  });

  for (const content of ["", null])
    for (const stream of [false, true])
      test(`a tool is called and answered: content ${JSON.stringify(content)}, stream ${stream} (F23)`, async () => {
        const { client } = dial();
        const mark = newMark();
        const request = asked(mark, { tools: [weather] });
        const first = stream
          ? await client.chat.completions.stream(request).finalChatCompletion()
          : await client.chat.completions.create(request);
        assert.equal(first.choices[0].finish_reason, "tool_calls");
        const [call] = first.choices[0].message.tool_calls;
        assert.deepEqual(JSON.parse(call.function.arguments), { city: mark });
        const { id, function: called } = call;
        const messages = [
          ...request.messages,
          { role: "assistant", content, tool_calls: [{ id, type: "function", function: called }] },
          { role: "tool", tool_call_id: id, content: `rain in ${mark}` },
        ];
        const second = { ...request, messages };
        const said = stream
          ? await streamed(client, second)
          : (await client.chat.completions.create(second)).choices[0].message.content;
        assert.ok(said.includes(`rain in ${mark}`));
        const asIt = JSON.parse((await prompts(`rain in ${mark}`)).at(-1).body).messages;
        assert.deepEqual(asIt, messages.map((message) => ({ ...message })));
      });

  test("a schema makes objects of answers in both modes", async () => {
    const { client } = dial();
    const mark = newMark();
    const request = asked(mark, { response_format: zodResponseFormat(Trip, "trip") });
    const parsed = (await client.chat.completions.parse(request)).choices[0].message.parsed;
    assert.deepEqual(parsed, { city: mark, days: 1 });
    const final = await client.chat.completions.stream(request).finalChatCompletion();
    assert.deepEqual(final.choices[0].message.parsed, parsed);
  });

  test("pictures of megabytes reach the provider whole (F25)", async () => {
    const { client, seen } = dial();
    const mark = newMark();
    const parts = [
      { type: "text", text: mark },
      { type: "image_url", image_url: { url: picture(5) } },
    ];
    assert.ok((await client.chat.completions.create(asked(parts))).choices[0].message.content.includes(mark));
    assert.ok((await streamed(client, asked(parts))).includes(mark));
    assert.deepEqual(
      (await prompts(mark)).map((prompt) => prompt.body),
      seen.sent,
    );
  });

  test("prompts side by side get their own answers (F1)", async () => {
    const { client } = dial();
    const texts = [0, 1, 2, 3].map((number) => `${newMark()} ${number} only`);
    const answers = await Promise.all(texts.map((text) => client.chat.completions.create(asked(text))));
    answers.forEach((answer, i) => assert.ok(answer.choices[0].message.content.includes(texts[i])));
  });
});

describe("slow answers", () => {
  test("comments that keep a silent stream alive are no part of it", async () => {
    const { client } = dial();
    const mark = newMark();
    await fail("stall", mark, { at: 0, seconds: 2 });
    const said = await streamed(client, asked(mark));
    assert.ok(said.startsWith(`You asked: ${mark}.`));
  });

  for (const [how, leave] of [
    ["aborted", (stream) => stream.controller.abort()],
    ["left", () => "break"],
  ])
    test(`a stream that is ${how} is cancelled and the next prompt runs (C33)`, async () => {
      const { client } = dial();
      const mark = newMark();
      await fail("pace", mark, { seconds: 0.25 });
      const stream = await client.chat.completions.create(asked(mark, { stream: true }));
      for await (const _ of stream) if (leave(stream) === "break") break;
      await untilFree(mark);
      const next = await client.chat.completions.create(asked("next"));
      assert.equal(next.choices[0].finish_reason, "stop");
      assert.equal((await prompts(mark)).length, 1);
    });

  test("the client's own time limit is its exception, and the session stays usable", async () => {
    const { client } = dial();
    const mark = newMark();
    const fault = await fail("stall", mark);
    await assert.rejects(
      client.chat.completions.create(asked(mark), { timeout: 1000, maxRetries: 0 }),
      OpenAI.APIConnectionTimeoutError,
    );
    await relent(fault);
    assert.equal((await client.chat.completions.create(asked("next"))).choices[0].finish_reason, "stop");
  });
});

describe("errors", () => {
  for (const [action, params, code] of [
    ["truncate", {}, "stream_truncated"],
    ["raw_error", {}, "provider_error"],
    ["raw_error", { text: neverAnswered }, "provider_timeout"],
    ["model_error", {}, "provider_overloaded"],
  ])
    test(`a stream that fails in the middle is an exception: ${code} (C34, F21, B2)`, async () => {
      const { client, seen } = dial();
      const mark = newMark();
      await fail(action, mark, { at: 3, ...params });
      await assert.rejects(streamed(client, asked(mark)), (error) => error instanceof OpenAI.APIError && error.code === code);
      assert.deepEqual(seen.statuses, [200]);
      assert.equal((await prompts(mark)).length, 1);
    });

  for (const stream of [false, true])
    for (const [params, status, code] of [
      [{}, 502, "provider_error"],
      [{ text: neverAnswered }, 504, "provider_timeout"],
    ])
      test(`what may have run is not sent again: ${code}, stream ${stream}`, async () => {
        const { client, seen } = dial();
        const mark = newMark();
        const fault = await fail("raw_error", mark, params, null);
        await assert.rejects(
          client.chat.completions.create(asked(mark, { stream })),
          (error) => error instanceof OpenAI.InternalServerError && error.status === status && error.code === code,
        );
        await relent(fault);
        assert.deepEqual(seen.statuses, [status]);
        assert.equal((await prompts(mark)).length, 1);
      });

  // these wait as they are told: side by side, each with a key of its own
  describe("retries", { concurrency: true }, () => {
    test("an overloaded provider is asked again after the time it was told, then given up (C19)", async () => {
      const { client, seen } = dial(keys[1], { maxRetries: 1 });
      const mark = newMark();
      const fault = await fail("model_error", mark, {}, null);
      await assert.rejects(
        client.chat.completions.create(asked(mark)),
        (error) => error instanceof OpenAI.InternalServerError && error.code === "provider_overloaded",
      );
      await relent(fault);
      assert.deepEqual(seen.statuses, [503, 503]);
      assert.ok(seen.at[1] - seen.at[0] >= 1000 * Number(seen.headers[0].get("retry-after")));
      assert.equal((await prompts(mark)).length, 2);
    });

    test("a stream that has not begun is asked for again (B5)", async () => {
      const { client, seen } = dial(keys[2]);
      const mark = newMark();
      await fail("model_error", mark);
      assert.ok((await streamed(client, asked(mark))).includes(mark));
      assert.deepEqual(seen.statuses, [503, 200]);
    });

    test("a full line is a rate limit that is waited out (C19)", async () => {
      const { client, seen } = dial(keys[3]);
      const mark = newMark();
      const fault = await fail("stall", mark);
      const once = { maxRetries: 0 };
      const running = streamed(client, asked(mark));
      await until(async () => (await prompts(mark)).some((prompt) => prompt.running), "running prompt");
      // QUEUE_PER_KEY wait behind it; one of these is too many, whichever comes last
      const waiting = [1, 2, 3, 4, 5].map((n) => client.chat.completions.create(asked(`waits ${n}`), once));
      const refused = await Promise.race(waiting.map((one) => one.then(() => undefined, (error) => error)));
      assert.ok(refused instanceof OpenAI.RateLimitError);
      assert.equal(refused.code, "session_busy");
      const before = seen.statuses.length;
      const patient = client.chat.completions.create(asked("later"));
      await until(() => seen.statuses.length > before, "refusal");
      await relent(fault);
      assert.equal((await patient).choices[0].finish_reason, "stop");
      assert.deepEqual(seen.statuses.slice(before).filter((status) => status === 429), [429]);
      await Promise.allSettled([running, ...waiting]);
    });
  });

  test("refusals are the exceptions that the SDK has for them", async () => {
    const hello = asked("hello");
    const refusals = [
      ["sk-nonsense", hello, OpenAI.AuthenticationError, "invalid_api_key"],
      [restrictedKey, hello, OpenAI.PermissionDeniedError, "insufficient_scope"],
      [keys[0], { ...hello, model: "no-such-model" }, OpenAI.NotFoundError, "model_not_found"],
      [keys[0], { ...hello, messages: [] }, OpenAI.BadRequestError, "invalid_value"],
      [unfundedKey, hello, OpenAI.BadRequestError, "no_active_session"],
      [keys[0], asked("x".repeat(17_000_000)), OpenAI.APIError, "request_too_large"],
    ];
    for (const [key, request, kind, code] of refusals) {
      const { client, seen } = dial(key);
      await assert.rejects(
        client.chat.completions.create(request),
        (error) => error instanceof kind && error.code === code && error.requestID.length > 0,
        code,
      );
      assert.equal(seen.statuses.length, 1, code);
    }
  });
});
