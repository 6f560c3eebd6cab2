// Answers a question from a folder: node ask.mjs FOLDER QUESTION [PICTURE ...] [--budget K]
// [--max-new-tokens N]
import { parseArgs } from "node:util";
import { load, readPicture } from "./index.mjs";

const { values, positionals } = asked();
const [folder, prompt, ...pictures] = positionals;
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

/** The command line; the program ends where it is none. */
function asked() {
  const number = /** @type {const} */ ({ type: "string" });
  const options = { budget: number, "max-new-tokens": { ...number, default: "64" } };
  let problem = "";
  try {
    const line = parseArgs({ allowPositionals: true, options });
    if (line.positionals.length > 1) return line;
  } catch (error) {
    problem = error instanceof Error ? `${error.message}\n` : "";
  }
  console.error(
    `${problem}node ask.mjs FOLDER QUESTION [PICTURE ...] [--budget K] [--max-new-tokens N]`,
  );
  return process.exit(2);
}
