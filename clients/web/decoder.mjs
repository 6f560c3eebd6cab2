// Knows the decoder at work: embeddings, the cache between runs, and how much of a cache a further
// prompt goes on from.
import { commonLength } from "./assembled.mjs";
import { ClientError } from "./errors.mjs";

/** @typedef {import("./assembled.mjs").Assembled} Assembled */

/**
 * One sequence of tokens and its cache. What is in the cache is written down after a run has
 * succeeded, so that an
 * answer that is given up costs the next one a longer prefill and never a wrong token.
 */
export class Sequence {
  /**
   * @param {any} ort
   * @param {any} facts
   * @param {{table: any, decoder: any}} sessions
   */
  constructor(ort, facts, sessions) {
    this.ort = ort;
    this.facts = facts;
    this.sessions = sessions;
    this.names = cacheNames(facts);
    /** @type {Record<string, any>} by the names of inputs. */
    this.cache = {};
    /** @type {(number | string)[]} of each token in the cache. */
    this.keys = [];
    this.next = facts.first_position ?? 0;
    /** @type {{embed: number, prefill: number}} milliseconds of the last prefill. */
    this.timings = { embed: 0, prefill: 0 };
  }

  /** Tokens in the cache. */
  get length() {
    return this.keys.length;
  }

  /**
   * Read a whole prompt; what it begins with and the cache holds is not computed again.
   * @param {Assembled} prompt
   * @returns {Promise<{logits: Float32Array, cached: number}>} logits (vocab,) after the prompt;
   *   tokens that were in the cache.
   * @throws {ClientError} it is longer than the context.
   */
  async prefill(prompt) {
    const n = prompt.ids.length;
    if (n > this.facts.context)
      throw new ClientError(
        `The prompt has ${n} tokens, and the model reads ${this.facts.context}: ` +
          "ask less, or begin anew",
      );
    // The last token is always computed: its logits are what is asked for.
    await this.keep(this.reach(prompt, Math.min(commonLength(this.keys, prompt.keys), n - 1)));
    const cached = this.length,
      started = performance.now();
    const { embeds, extras } = await this.embedded(prompt, cached);
    const embedded = performance.now();
    const planes = prompt.planes.map((plane) => plane.subarray(cached));
    const logits = await this.run(embeds, extras, planes, this.seen(prompt, cached));
    this.keys = prompt.keys.slice();
    this.next = prompt.next;
    this.timings = { embed: embedded - started, prefill: performance.now() - embedded };
    return { logits, cached };
  }

  /**
   * Append one token of the answer.
   * @param {number} token
   * @returns {Promise<Float32Array>} logits (vocab,) of the next.
   */
  async decode(token) {
    const embeds = await this.lookedUp([token]);
    const planes = Array.from({ length: this.facts.axes }, () => Int32Array.of(this.next));
    const extras = Object.fromEntries(
      (this.facts.extras ?? []).map((/** @type {string} */ name) => [
        name,
        new Float32Array(embeds.length),
      ]),
    );
    const logits = await this.run(embeds, extras, planes, [0]);
    this.keys.push(token);
    this.next++;
    return logits;
  }

  /** Forget all tokens and free the cache. */
  reset() {
    for (const tensor of Object.values(this.cache)) tensor.dispose?.();
    this.cache = {};
    this.keys = [];
    this.next = this.facts.first_position ?? 0;
  }

  /**
   * How many of the first `length` tokens, which the cache holds of a prompt, can be gone on from.
   * @param {Assembled} prompt
   * @param {number} length
   */
  reach(prompt, length) {
    const { attention, convolutions, axes } = this.facts;
    if (attention === "prompt") return 0; // what follows would be a second prompt
    if (convolutions) return length === this.length ? length : 0; // a state cannot be cut
    if (axes === 1 && attention !== "pictures") return length;
    const { pictures } = prompt;
    // A picture goes whole: its rows and columns are numbered together, or see each other.
    if (length > 0 && pictures[length] > 0 && pictures[length] === pictures[length - 1])
      return pictures.indexOf(pictures[length]);
    return length;
  }

  /** @param {number} length tokens that stay. */
  async keep(length) {
    if (length === 0) return this.reset();
    if (length === this.length) return;
    const cut = await Promise.all(
      Object.entries(this.cache).map(async ([name, tensor]) => [
        name,
        await shortened(this.ort, tensor, length),
      ]),
    );
    for (const tensor of Object.values(this.cache)) tensor.dispose?.();
    this.cache = Object.fromEntries(cut);
    this.keys.length = length;
  }

  /**
   * What the decoder reads of a prompt from a token on: embeddings (n, hidden), and further rows by
   * name.
   * @param {Assembled} prompt
   * @param {number} from
   */
  async embedded(prompt, from) {
    const { hidden, extras: names = [] } = this.facts;
    const n = prompt.ids.length - from,
      embeds = new Float32Array(n * hidden);
    /** @type {Record<string, Float32Array>} */
    const extras = Object.fromEntries(
      names.map((/** @type {string} */ name) => [name, new Float32Array(n * hidden)]),
    );
    const text = prompt.ids.filter((_, i) => i >= from && prompt.pictures[i] === 0);
    const rows = text.length ? await this.lookedUp(text) : new Float32Array(0);
    for (let i = 0, read = 0; i < n; i++) {
      const number = prompt.pictures[from + i];
      if (number === 0) {
        embeds.set(rows.subarray(read * hidden, (read + 1) * hidden), i * hidden);
        read++;
        continue;
      }
      const picture = prompt.filled[number - 1],
        at = prompt.rows[from + i] * hidden;
      embeds.set(picture.rows.subarray(at, at + hidden), i * hidden);
      for (const name of names)
        extras[name].set(picture.extras[name].subarray(at, at + hidden), i * hidden);
    }
    return { embeds, extras };
  }

  /** @param {number[]} ids @returns {Promise<Float32Array>} embeddings (n, hidden). */
  async lookedUp(ids) {
    const { inputs_embeds } = await this.sessions.table.run({ input_ids: longs(this.ort, ids) });
    const rows = await values(inputs_embeds);
    inputs_embeds.dispose?.();
    return rows;
  }

  /**
   * Of each token from one on which others see it both ways, see `attention` of using.schema.json.
   */
  seen(/** @type {Assembled} */ prompt, /** @type {number} */ from) {
    if (this.facts.attention === "pictures") return prompt.pictures.subarray(from);
    const n = prompt.ids.length - from;
    return new Array(n).fill(this.facts.attention === "prompt" && n > 1 ? 1 : 0);
  }

  /**
   * @param {Float32Array} embeds (n, hidden)
   * @param {Record<string, Float32Array>} extras (n, hidden) each
   * @param {Int32Array[]} planes positions, (n,) each
   * @param {ArrayLike<number>} seen
   * @returns {Promise<Float32Array>} logits (vocab,)
   */
  async run(embeds, extras, planes, seen) {
    const { ort, facts } = this,
      n = embeds.length / facts.hidden;
    const wide = [1, n, facts.hidden];
    /** @type {Record<string, any>} */
    const feed = {
      inputs_embeds: new ort.Tensor("float32", embeds, wide),
      attention_mask: new ort.Tensor("int64", new BigInt64Array(this.length + n).fill(1n), [
        1,
        this.length + n,
      ]),
      position_ids: longs(
        ort,
        joined(planes),
        planes.length === 1 ? [1, n] : [planes.length, 1, n],
      ),
    };
    for (const [name, rows] of Object.entries(extras))
      feed[name] = new ort.Tensor("float32", rows, wide);
    if (facts.attention) feed.picture_ids = longs(ort, seen);
    if (facts.scores) feed.scored_rows = longs(ort, [], [0]);
    for (const { past, shape } of this.names) feed[past] = this.cache[past] ?? empty(ort, shape);
    const result = await this.sessions.decoder.run(feed, [
      "logits",
      ...this.names.map(({ present }) => present),
    ]);
    const logits = await values(result.logits);
    result.logits.dispose?.();
    for (const { past, present } of this.names) {
      feed[past].dispose?.();
      this.cache[past] = result[present];
    }
    return logits;
  }
}

/**
 * The tensors of a decoder's cache: a run's output `present` is the next run's input `past`. Of
 * `shape` the first run
 * takes zeros.
 * @param {any} facts
 * @returns {{past: string, present: string, shape: number[]}[]}
 */
export function cacheNames(facts) {
  const states = facts.convolutions?.layers ?? [];
  const names = [];
  for (let layer = 0; layer < facts.layers; layer++) {
    if (states.includes(layer)) {
      names.push({
        past: `past_conv.${layer}`,
        present: `present_conv.${layer}`,
        shape: [1, facts.hidden, facts.convolutions.width],
      });
      continue;
    }
    for (const kind of ["key", "value"])
      names.push({
        past: `past_key_values.${layer}.${kind}`,
        present: `present.${layer}.${kind}`,
        shape: [1, facts.kv_heads, 0, facts.head_dim],
      });
  }
  return names;
}

/** @param {any} ort @param {number[]} shape */
function empty(ort, shape) {
  return new ort.Tensor("float32", new Float32Array(shape.reduce((a, b) => a * b, 1)), shape);
}

/** @param {any} ort @param {ArrayLike<number>} numbers @param {number[]} [shape] */
function longs(ort, numbers, shape = [1, numbers.length]) {
  const data = new BigInt64Array(numbers.length);
  for (let i = 0; i < data.length; i++) data[i] = BigInt(numbers[i]);
  return new ort.Tensor("int64", data, shape);
}

/** @param {Int32Array[]} planes */
function joined(planes) {
  if (planes.length === 1) return planes[0];
  const n = planes[0].length,
    all = new Int32Array(planes.length * n);
  planes.forEach((plane, axis) => all.set(plane, axis * n));
  return all;
}

/** The values of a tensor, wherever it lies. @param {any} tensor */
async function values(tensor) {
  return tensor.location && tensor.location !== "cpu" ? tensor.getData() : tensor.data;
}

/**
 * The first tokens of keys or values (1, heads, length, width).
 * @param {any} ort
 * @param {any} tensor
 * @param {number} length
 */
async function shortened(ort, tensor, length) {
  const [, heads, before, width] = tensor.dims;
  const all = await values(tensor),
    kept = new Float32Array(heads * length * width);
  for (let head = 0; head < heads; head++)
    kept.set(
      all.subarray(head * before * width, (head * before + length) * width),
      head * length * width,
    );
  return new ort.Tensor("float32", kept, [1, heads, length, width]);
}
