// Knows the loop of an answer: a prompt is read, then token after token is picked until something
// ends it.
import { breathe } from "./answer.mjs";

/**
 * @typedef {object} Limits
 * @property {number} maxNewTokens
 * @property {number[]} ends ids that end an answer.
 * @property {AbortSignal} signal
 * @property {((token: number) => void) | undefined} onToken
 * @property {(piece: string) => void} push takes pieces of text.
 * @property {number} started when the question was asked, by performance.now.
 */

/**
 * Generate an answer.
 * @param {import("./decoder.mjs").Sequence} sequence
 * @param {import("./assembled.mjs").Assembled} prompt
 * @param {import("./sampling.mjs").Sampler} sampler
 * @param {import("./answer_text.mjs").Detokenizer} text
 * @param {Limits} limits
 */
export async function generate(sequence, prompt, sampler, text, limits) {
  const { maxNewTokens, ends, signal, onToken, push, started } = limits;
  /** @type {number[]} */
  const tokenIds = [];
  /** @type {import("./answer.mjs").Result["finishReason"]} */
  let finishReason = "length";
  let cached = 0,
    ttft = 0,
    decode = 0;
  const give = (/** @type {string} */ piece) => void (piece && push(piece));
  while (tokenIds.length < maxNewTokens) {
    if (signal.aborted) {
      finishReason = "interrupted";
      break;
    }
    const last = tokenIds.at(-1),
      before = performance.now();
    let logits;
    if (last === undefined) ({ logits, cached } = await sequence.prefill(prompt));
    else logits = await sequence.decode(last);
    const token = sampler.pick(logits);
    if (last === undefined) ttft = performance.now() - started;
    else decode += performance.now() - before;
    tokenIds.push(token);
    onToken?.(token);
    if (ends.includes(token)) {
      finishReason = "stop";
      break;
    }
    give(text.push(token));
    if (text.stopped) break;
    await breathe();
  }
  give(text.finish());
  if (text.stopped) finishReason = "stop"; // it may be complete only now
  return {
    text: text.text,
    tokenIds,
    finishReason,
    promptTokens: { total: prompt.ids.length, cached },
    timings: { ...sequence.timings, ttft, decode, total: ttft + decode },
  };
}
