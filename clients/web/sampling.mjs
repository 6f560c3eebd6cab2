// Knows how the next token is picked from logits: the steps that a checkpoint was published with,
// then the highest score or a draw.
import { ClientError } from "./errors.mjs";

/**
 * @typedef {object} Sampling as of transformers' GenerationConfig, temperature 0 for greedy.
 * @property {number} [temperature]
 * @property {number} [top_k] 0 is all.
 * @property {number} [top_p]
 * @property {number} [seed] makes draws repeatable here; other clients draw others.
 * @property {number} [repetition_penalty]
 * @property {number} [no_repeat_ngram_size]
 * @property {number[]} [suppress_tokens]
 * @property {number[]} [begin_suppress_tokens]
 * @property {number[][]} [bad_words_ids]
 * @property {number} [min_new_tokens]
 */

/**
 * @typedef {{prompt: number, ends: number[]}} Around how many ids come before the answer, and which
 *   ids end one.
 */
/**
 * @typedef {(scores: Float32Array, ids: number[], around: Around) => void} Step changes scores
 *   (vocab,) in place.
 */

// In transformers' order; each is made of its setting.
/** @type {Record<string, (value: any) => Step>} */
const STEPS = {
  repetition_penalty: (penalty) => (scores, ids) => {
    // In float32 throughout, so that greedy answers agree to the token.
    const factor = Math.fround(penalty);
    for (const id of new Set(ids))
      if (id < scores.length)
        scores[id] = scores[id] < 0 ? scores[id] * factor : scores[id] / factor;
  },
  no_repeat_ngram_size: (size) => (scores, ids) => {
    const last = ids.length + 1 - size;
    for (let start = 0; size > 0 && start + size <= ids.length; start++) {
      let same = true;
      for (let i = 0; i < size - 1 && same; i++) same = ids[start + i] === ids[last + i];
      if (same) scores[ids[start + size - 1]] = -Infinity;
    }
  },
  bad_words_ids:
    (words) =>
    (scores, ids, { ends }) => {
      for (const word of words) {
        if (word.length === 1 && ends.includes(word[0])) continue;
        const from = ids.length + 1 - word.length;
        if (
          from >= 0 &&
          word
            .slice(0, -1)
            .every((/** @type {number} */ id, /** @type {number} */ i) => ids[from + i] === id)
        )
          scores[word.at(-1)] = -Infinity;
      }
    },
  min_new_tokens:
    (least) =>
    (scores, ids, { prompt, ends }) => {
      if (ids.length - prompt < least) for (const id of ends) scores[id] = -Infinity;
    },
  suppress_tokens: (never) => (scores) => {
    for (const id of never) if (id < scores.length) scores[id] = -Infinity;
  },
  begin_suppress_tokens:
    (first) =>
    (scores, ids, { prompt }) => {
      if (ids.length === prompt)
        for (const id of first) if (id < scores.length) scores[id] = -Infinity;
    },
};

// Values that change nothing, where it is not 0 or an empty list.
/** @type {Record<string, number>} */
const NEUTRAL = { repetition_penalty: 1 };
const DRAWN = ["temperature", "top_k", "top_p", "seed"];

/**
 * Refuse an artifact whose answers go through what this client does not have: without it they would
 * be another model's.
 * @param {any} facts
 */
export function checkProcessors(facts) {
  const lacking = Object.keys(facts.generation.processors).filter(
    (name) => !Object.hasOwn(STEPS, name) && name !== "stop",
  );
  if (lacking.length)
    throw new ClientError(
      `The answers of this model go through ${lacking.join(", ")}, which this client does not ` +
        "have: answer with pocketvlm's runtime",
    );
}

/** Picks the tokens of one answer. */
export class Sampler {
  /**
   * @param {any} facts
   * @param {Sampling} sampling what is asked for; the rest is the checkpoint's own.
   * @param {number[]} ids of the prompt, every slot among them.
   */
  constructor(facts, sampling, ids) {
    const unknown = Object.keys(sampling).find(
      (name) => !Object.hasOwn(STEPS, name) && !DRAWN.includes(name),
    );
    if (unknown) {
      const own = [...Object.keys(STEPS), ...DRAWN].join(", ");
      throw new ClientError(`${unknown} is not a setting of this client; it has ${own}`);
    }
    const asked = /** @type {Record<string, any>} */ ({
      ...facts.generation.processors,
      ...sampling,
    });
    this.steps = Object.entries(STEPS).flatMap(([name, make]) =>
      neutral(name, asked[name]) ? [] : [make(asked[name])],
    );
    this.ids = Array.from(ids);
    this.around = { prompt: ids.length, ends: facts.eos_token_ids };
    this.temperature = checked("temperature", asked.temperature ?? 0, (value) => value >= 0);
    this.topK = checked(
      "top_k",
      asked.top_k ?? 0,
      (value) => Number.isInteger(value) && value >= 0,
    );
    this.topP = checked("top_p", asked.top_p ?? 1, (value) => value > 0 && value <= 1);
    this.random = randomFrom(asked.seed);
  }

  /**
   * @param {Float32Array} logits (vocab,)
   * @returns {number} the next token.
   * @throws {ClientError} logits that are not numbers, settings that rule out every token.
   */
  pick(logits) {
    let scores = logits;
    if (this.steps.length) {
      scores = logits.slice();
      for (const step of this.steps) step(scores, this.ids, this.around);
    }
    const best = highest(scores);
    if (Number.isNaN(scores[best]) || scores[best] === Infinity)
      throw new ClientError(
        "The decoder's logits are not finite: try another precision or provider",
      );
    if (scores[best] === -Infinity)
      throw new ClientError("The sampling settings rule out every token");
    const token = this.temperature === 0 ? best : this.draw(scores, scores[best]);
    this.ids.push(token);
    return token;
  }

  /** @param {Float32Array} scores @param {number} top */
  draw(scores, top) {
    const weights = new Float64Array(scores.length);
    for (let i = 0; i < scores.length; i++)
      weights[i] = Math.exp((scores[i] - top) / this.temperature);
    // Sorting is needed only where some tokens are left out.
    const limited = (this.topK > 0 && this.topK < scores.length) || this.topP < 1;
    const order = limited ? this.likely(scores, weights) : null;
    let total = 0;
    const count = order ? order.length : weights.length;
    for (let i = 0; i < count; i++) total += weights[order ? order[i] : i];
    let left = this.random() * total;
    for (let i = 0; i < count; i++) {
      left -= weights[order ? order[i] : i];
      if (left < 0) return order ? order[i] : i;
    }
    return order ? order[0] : highest(scores);
  }

  /**
   * Ids that top_k and top_p leave, the likeliest first; of equal ones at the edge of top_p the
   * lower stay.
   */
  likely(/** @type {Float32Array} */ scores, /** @type {Float64Array} */ weights) {
    const order = new Uint32Array(scores.length);
    for (let i = 0; i < order.length; i++) order[i] = i;
    order.sort((a, b) => scores[b] - scores[a] || a - b);
    let count = order.length;
    if (this.topK > 0 && this.topK < count) {
      count = this.topK;
      const least = scores[order[count - 1]];
      while (count < order.length && scores[order[count]] === least) count++; // ties stay
    }
    if (this.topP < 1) {
      let total = 0,
        mass = 0,
        kept = 0;
      for (let i = 0; i < count; i++) total += weights[order[i]];
      while (kept < count && mass < this.topP * total) mass += weights[order[kept++]];
      count = Math.max(1, kept);
    }
    return order.subarray(0, count);
  }
}

/**
 * The number of the highest score, of equal ones the lowest; of one that is NaN where there is any.
 * @param {Float32Array} scores
 */
export function highest(scores) {
  let best = 0;
  for (let i = 0; i < scores.length; i++) {
    if (scores[i] > scores[best]) best = i;
    else if (scores[i] !== scores[i]) return i;
  }
  return best;
}

/** @param {string} name @param {any} value */
function neutral(name, value) {
  if (value === undefined || value === null || value === (NEUTRAL[name] ?? 0)) return true;
  return Array.isArray(value) && value.length === 0;
}

/** @param {string} name @param {number} value @param {(value: number) => boolean} valid */
function checked(name, value, valid) {
  if (typeof value === "number" && Number.isFinite(value) && valid(value)) return value;
  throw new ClientError(`${name} ${value} is out of range`);
}

/**
 * Numbers from 0 up to 1, the same for the same seed (a 32-bit counter, mixed by multiplications
 * and shifts).
 * @param {number | undefined} seed
 */
function randomFrom(seed) {
  if (seed === undefined || seed === null) return Math.random;
  let state = seed >>> 0;
  return () => {
    state = (state + 0x9e3779b9) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
    return ((mixed ^ (mixed >>> 15)) >>> 0) / 4294967296;
  };
}
