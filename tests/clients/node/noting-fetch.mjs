// Loaded before an example of the documentation: notes the status and the JSON of each answer that its fetch gets.
import { writeFileSync } from "node:fs";

const notes = [];
const real = globalThis.fetch;

globalThis.fetch = async (...request) => {
  const answer = await real(...request);
  const isJson = answer.headers.get("content-type")?.startsWith("application/json");
  notes.push({ status: answer.status, body: isJson ? answer.clone().text() : null });
  return answer;
};

process.once("beforeExit", async () => {
  const written = await Promise.all(notes.map(async (note) => ({ ...note, body: await note.body })));
  writeFileSync(process.env.NOTES, JSON.stringify(written));
});
