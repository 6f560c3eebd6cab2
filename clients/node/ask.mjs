// Answers a question from a folder: node ask.mjs FOLDER QUESTION [PICTURE ...] [--budget K]
// [--max-new-tokens N]
import { parseArgs } from "node:util";
import { load, readPicture } from "./index.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { budget: { type: "string" }, "max-new-tokens": { type: "string", default: "64" } },
});
const [folder, prompt, ...pictures] = positionals;
if (prompt === undefined) {
  console.error("node ask.mjs FOLDER QUESTION [PICTURE ...] [--budget K] [--max-new-tokens N]");
  process.exit(2);
}
try {
  const vlm = await load(folder);
  for (const notice of vlm.notices) console.error(notice);
  const seen = [];
  for (const picture of pictures) seen.push(await vlm.see(await readPicture(picture)));
  const budget = values.budget === undefined ? undefined : Number(values.budget);
  const answer = vlm.answer({
    prompt,
    pictures: seen,
    budget,
    maxNewTokens: Number(values["max-new-tokens"]),
  });
  for await (const piece of answer) process.stdout.write(piece);
  const { promptTokens, visualTokens, timings } = await answer.result;
  console.log();
  console.error(
    `${visualTokens} visual tokens, ${promptTokens.total} in the prompt, ` +
      `first token after ${Math.round(timings.ttft)} ms`,
  );
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
