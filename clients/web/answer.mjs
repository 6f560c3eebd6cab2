// Knows an answer on its way: text pieces for whoever iterates over it, then all of it as a result.
import { inNode } from "./downloads.mjs";

/**
 * @typedef {object} Result
 * @property {string} text up to the first stop text.
 * @property {number[]} tokenIds all that were picked, the end of the answer among them.
 * @property {"stop" | "length" | "interrupted"} finishReason
 * @property {{total: number, cached: number}} promptTokens those that were in the cache are not
 *   computed again.
 * @property {number} visualTokens of all pictures.
 * @property {number[][][]} kept of each picture and tile the kept indices.
 * @property {Record<string, number>} timings milliseconds: preprocess and vision of the pictures,
 *   embed, prefill, ttft, decode, total.
 */

/**
 * An answer. Iterate over its pieces, or wait for `result`; leaving the loop ends it.
 * @implements {AsyncIterable<string>}
 */
export class Answer {
  /**
   * @param {(push: (piece: string) => void, signal: AbortSignal) => Promise<Result>} work begins at
   *   once.
   * @param {AbortSignal} [signal]
   */
  constructor(work, signal) {
    /** @type {string[]} */
    this.pieces = [];
    this.done = false;
    this.stopping = new AbortController();
    this.wake = () => {};
    const stop = () => this.stop();
    if (signal?.aborted) stop();
    signal?.addEventListener("abort", stop);
    /** The whole answer; rejects where it fails. @type {Promise<Result>} */
    this.result = work((piece) => this.push(piece), this.stopping.signal).finally(() => {
      signal?.removeEventListener("abort", stop); // it may outlive many answers
      this.done = true;
      this.wake();
    });
    this.result.catch(() => {}); // whoever iterates is told there
  }

  /**
   * End the answer after the token on its way: it is a whole one then, with the reason
   * "interrupted".
   */
  stop() {
    this.stopping.abort();
  }

  /** @param {string} piece */
  push(piece) {
    this.pieces.push(piece);
    this.wake();
  }

  async *[Symbol.asyncIterator]() {
    try {
      for (let next = 0; ;) {
        while (next < this.pieces.length) yield this.pieces[next++];
        if (this.done) break;
        await new Promise((resolve) => (this.wake = () => resolve(undefined)));
      }
    } finally {
      this.stop();
    }
    await this.result;
  }
}

/**
 * Let the page paint and take input: where graphs run in the page's own thread, a token is one long
 * task.
 */
export async function breathe() {
  const scheduler = /** @type {any} */ (globalThis).scheduler;
  if (scheduler?.yield) return scheduler.yield();
  if (inNode) return undefined;
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve(undefined);
    };
    port2.postMessage(null);
  });
}
