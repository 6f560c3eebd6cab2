// Answers questions about pictures from a folder that `pocketvlm export` wrote: in pages over
// onnxruntime-web, in Node over
// onnxruntime-node. Everything it knows of a model is read from the folder's using.json.
// Licensed under the Apache License 2.0; part of PocketVLM.
import { Answer } from "./answer.mjs";
import { Detokenizer } from "./answer_text.mjs";
import { assemble } from "./assembled.mjs";
import { Sequence } from "./decoder.mjs";
import { openFiles } from "./downloads.mjs";
import { ClientError, reasonOf } from "./errors.mjs";
import { checkServed, chooseGraphs } from "./facts.mjs";
import { generate } from "./generation.mjs";
import { openLayout } from "./layouts.mjs";
import { openPrompter, openTrusted, readConstants } from "./loading.mjs";
import { decodePicture, upright } from "./pictures.mjs";
import { decodePng, isPng } from "./png.mjs";
import { Sampler, checkProcessors } from "./sampling.mjs";
import { Seen, encodeTiles } from "./seen.mjs";
import { availableProvider, prepareThreads } from "./sessions.mjs";

export { ClientError } from "./errors.mjs";
export { Seen } from "./seen.mjs";

/**
 * @typedef {object} LoadOptions
 * @property {any} ort the module onnxruntime-web (its /wasm or /webgpu), or onnxruntime-node.
 * @property {"wasm" | "webgpu" | "cpu"} [provider] what computes; wasm in pages and cpu in Node
 *   where it is left out.
 * @property {number | "largest"} [budget] the graph for so many tokens of a tile, or that which
 *   serves all others; the artifact's own where it is left out.
 * @property {string} [visionPrecision]
 * @property {string} [decoderPrecision]
 * @property {number} [threads] of WASM.
 * @property {(progress: import("./downloads.mjs").Progress) => void} [onProgress]
 * @property {(file: string) => Promise<Uint8Array | Blob>} [fetchFile] gives files by their names
 *   in the folder.
 * @property {boolean} [selfTest] whether the self-test runs: by default wherever another than
 *   Node's CPU provider computes.
 * @property {import("./prompt.mjs").TextLibraries} [libraries] of text, where they are not found by
 *   their names.
 */

/**
 * @typedef {object} AnswerOptions
 * @property {string} [prompt] one question; `<image>` in it places a picture.
 * @property {readonly import("./prompt.mjs").Message[]} [messages] a whole conversation in its
 *   place, the user's last.
 * @property {readonly Seen[]} [pictures] in the order of their places.
 * @property {number} [budget] tokens of each tile; the loaded graph's where it is left out.
 * @property {number} [maxNewTokens]
 * @property {import("./sampling.mjs").Sampling} [sampling] greedy where it is left out.
 * @property {readonly string[]} [stop] texts that end the answer.
 * @property {AbortSignal} [signal]
 * @property {(token: number) => void} [onToken] is called with each id as it is picked.
 */

const MAX_NEW_TOKENS = 64;

/** A loaded model. */
export class PocketVLM {
  /**
   * Load a model.
   * @param {string} base address or path of the artifact's folder.
   * @param {LoadOptions} options
   * @returns {Promise<PocketVLM>}
   * @throws {ClientError} an artifact that is not served here, a file that is missing, a device
   *   that computes wrong.
   */
  static async load(base, options) {
    const { ort } = options;
    if (!ort?.InferenceSession)
      throw new ClientError("Give the module onnxruntime-web or onnxruntime-node as ort");
    const files = await openFiles(base, options);
    const facts = await files.facts();
    checkServed(facts);
    checkProcessors(facts);
    const layout = openLayout(facts),
      choice = chooseGraphs(facts, options),
      { notices } = files;
    const prompter = await openPrompter(facts, files, options.libraries);
    const constants = await readConstants(facts, files);
    let provider = await availableProvider(ort, options.provider, notices);
    if (provider === "wasm") prepareThreads(ort, options.threads, notices);
    const opened = { ort, files, facts, layout, choice, constants, selfTest: options.selfTest };
    let sessions;
    try {
      sessions = await openTrusted(opened, provider);
    } catch (error) {
      if (provider !== "webgpu") throw error;
      notices.push(`WebGPU is not used: ${reasonOf(error)}. WASM computes instead.`);
      provider = "wasm";
      prepareThreads(ort, options.threads, notices);
      sessions = await openTrusted(opened, provider);
    }
    return new PocketVLM(opened, sessions, prompter, provider);
  }

  /**
   * @param {any} opened
   * @param {import("./loading.mjs").Sessions} sessions
   * @param {import("./prompt.mjs").Prompter} prompter
   * @param {string} provider
   */
  constructor({ ort, facts, layout, choice, constants, files }, sessions, prompter, provider) {
    this.ort = ort;
    /** The content of using.json. */
    this.facts = facts;
    this.layout = layout;
    /** Which graphs answer. @type {import("./facts.mjs").Choice} */
    this.choice = choice;
    /** What computes. */
    this.provider = provider;
    /** What a person should know: what is slower or other than was asked for. @type {string[]} */
    this.notices = files.notices;
    this.constants = constants;
    this.sessions = sessions;
    this.prompter = prompter;
    this.sequence = new Sequence(ort, facts, sessions);
    /** One answer or picture after another. @type {Promise<unknown>} */
    this.turn = Promise.resolve();
    this.closed = false;
  }

  /** The largest budget that pictures are asked about: k of the loaded graph. */
  get budget() {
    return this.choice.budget;
  }

  /**
   * Encode a picture, once for any number of questions and budgets.
   * @param {Blob | Uint8Array | {data: Uint8ClampedArray, width: number, height: number}} source a
   *   file, or upright pixels as decodePicture gives them.
   * @returns {Promise<Seen>}
   * @throws {ClientError}
   */
  async see(source) {
    const started = performance.now(),
      picture = await pictureOf(source);
    return this.alone(() => this.encoded(picture, this.layout, performance.now() - started));
  }

  /**
   * Answer a question. What the prompt begins with is not computed again where the answer before
   * began alike: further
   * turns, and further questions about one picture at one budget.
   * @param {AnswerOptions} options
   * @returns {Answer} text pieces, then `result`.
   */
  answer(options) {
    return new Answer(
      (push, signal) => this.alone(() => this.answered(options, push, signal)),
      options.signal,
    );
  }

  /** Free the cache of the prompt before, so that the next is read from its beginning. */
  forget() {
    return this.alone(async () => this.sequence.reset());
  }

  /** Free what the model holds. */
  async close() {
    await this.alone(async () => {
      this.closed = true;
      this.sequence.reset();
      await Promise.all(Object.values(this.sessions).map((session) => session.release?.()));
    });
  }

  /** @template T @param {() => Promise<T>} work @returns {Promise<T>} */
  alone(work) {
    const turn = this.turn.then(() => {
      if (this.closed) throw new ClientError("This model was closed: load it again");
      return work();
    });
    this.turn = turn.catch(() => {});
    return turn;
  }

  /** @param {any} picture @param {any} layout @param {number} decoded milliseconds so far. */
  async encoded(picture, layout, decoded) {
    const started = performance.now(),
      cut = layout.cut(picture),
      prepared = performance.now();
    const tiles = await encodeTiles(this.ort, this.sessions.vision, this.facts, layout, cut);
    const seen = new Seen(this.facts, layout, picture, cut, tiles, this.budget);
    seen.timings = {
      preprocess: decoded + prepared - started,
      vision: performance.now() - prepared,
    };
    return seen;
  }

  /**
   * The pictures as they go into a prompt: some layouts read several otherwise than one alone.
   * @param {readonly Seen[]} pictures
   */
  async among(pictures) {
    if (pictures.length < 2 || this.layout.several === this.layout) return pictures;
    const read = [];
    for (const seen of pictures)
      read.push((seen.among ??= await this.encoded(seen.picture, this.layout.several, 0)));
    return read;
  }

  /**
   * @param {AnswerOptions} options
   * @param {(piece: string) => void} push
   * @param {AbortSignal} signal
   * @returns {Promise<import("./answer.mjs").Result>}
   */
  async answered(options, push, signal) {
    const { budget = this.budget, maxNewTokens = MAX_NEW_TOKENS } = options;
    const started = performance.now(),
      { ids } = this.asked(options);
    const pictures = await this.among(options.pictures ?? []);
    const filled = pictures.map((seen) => seen.filled(budget, this.constants));
    const prompt = assemble(this.facts, ids, filled);
    this.checkRoom(prompt.ids.length, maxNewTokens);
    const stop = options.stop ?? this.facts.generation.processors.stop ?? [];
    const sampler = new Sampler(this.facts, options.sampling ?? {}, prompt.ids);
    const text = new Detokenizer(this.prompter.tokenizer, stop);
    const { onToken } = options,
      ends = this.facts.eos_token_ids;
    const limits = { maxNewTokens, ends, signal, onToken, push, started };
    const generated = await generate(this.sequence, prompt, sampler, text, limits);
    return {
      ...generated,
      visualTokens: filled.reduce((sum, { rows }) => sum + rows.length / this.facts.hidden, 0),
      kept: pictures.map((seen) => seen.kept(budget).map((kept) => Array.from(kept))),
      timings: { ...seenIn(pictures), ...generated.timings },
    };
  }

  /** @param {number} prompt tokens @param {number} maxNewTokens */
  checkRoom(prompt, maxNewTokens) {
    if (!(Number.isInteger(maxNewTokens) && maxNewTokens > 0)) {
      throw new ClientError(`maxNewTokens ${maxNewTokens} is not a number of tokens`);
    }
    // The last token is never read, so it takes no room.
    if (prompt + maxNewTokens - 1 <= this.facts.context) return;
    throw new ClientError(
      `The prompt of ${prompt} tokens and ${maxNewTokens} of the answer are more than the ` +
        `${this.facts.context} that the model reads`,
    );
  }

  /** @param {AnswerOptions} options */
  asked({ prompt, messages, pictures = [] }) {
    if ((prompt === undefined) === (messages === undefined))
      throw new ClientError("Give a prompt or messages, one of them");
    if (messages === undefined)
      return this.prompter.question(/** @type {string} */ (prompt), pictures.length);
    const read = this.prompter.encode(messages);
    if (read.pictures !== pictures.length)
      throw new ClientError(
        `The messages place ${read.pictures} pictures, and ${pictures.length} are given`,
      );
    return read;
  }
}

/** Milliseconds of pictures before any question. @param {readonly Seen[]} pictures */
function seenIn(pictures) {
  const spent = { preprocess: 0, vision: 0 };
  for (const { timings } of pictures) {
    spent.preprocess += timings.preprocess;
    spent.vision += timings.vision;
  }
  return spent;
}

/** @param {any} source */
async function pictureOf(source) {
  if (source?.data instanceof Uint8ClampedArray) return source;
  if (typeof createImageBitmap !== "undefined") return decodePicture(source);
  const bytes = source instanceof Blob ? new Uint8Array(await source.arrayBuffer()) : source;
  if (!(bytes instanceof Uint8Array) || !isPng(bytes))
    throw new ClientError(
      "Here only PNG files are read: give other pictures as upright RGBA pixels " +
        "{data, width, height}",
    );
  const { data, width, height } = await decodePng(bytes);
  return upright(data, width, height);
}
