/**
 * Knows the back end that runs in this page: a worker computes, so that the page stays at hand.
 * @module
 */
import { offered } from "./kept.mjs";
import { inWords } from "./words.mjs";

/** @typedef {import("./back_ends.mjs").Seen} Seen */

const SMALL = 64e6; // bytes of a model that a CPU answers from as fast as a GPU is started

/** Asks the worker, see back_ends.mjs for what each does. */
export class LocalBackEnd {
  /**
   * @param {import("./back_ends.mjs").Model} model
   * @param {string} provider "auto", "wasm" or "webgpu"
   * @param {File[] | null} files of a folder that a person opened
   */
  constructor(model, provider, files) {
    this.local = true;
    this.model = model;
    this.provider = provider;
    this.files = files;
    /** @type {string[]} */
    this.chips = [];
    /** @type {string[]} */
    this.notices = [];
    this.facts = { model: model.name, budgets: [1], budget: 1, patches: null };
    /** @type {Map<number, {resolve: (value: any) => void, reject: (reason: unknown) => void,
     *   onMessage?: (message: any) => void}>} */
    this.waiting = new Map();
    this.requests = 0;
    /** @type {Worker | null} */
    this.worker = null;
  }

  /** @param {{onProgress: (progress: any) => void}} options */
  async load({ onProgress }) {
    const provider = await this.chosen();
    let loaded;
    try {
      loaded = await this.open(provider, onProgress);
    } catch (error) {
      // The build for GPUs cannot compute every graph without one; the other build can.
      if (provider === "wasm" || !this.worker) throw error;
      this.worker.terminate();
      this.worker = null;
      loaded = await this.open("wasm", onProgress);
      loaded.notices.push(`WebGPU is not used: ${inWords(error)}`);
    }
    this.facts = {
      model: loaded.model,
      budgets: offered(loaded.budgets, loaded.nested),
      budget: loaded.budget,
      patches: loaded.patches,
    };
    this.notices = loaded.notices;
    const count = `${threads()} ${threads() === 1 ? "thread" : "threads"}`;
    this.chips = [loaded.provider === "webgpu" ? "WebGPU" : `WASM, ${count}`];
  }

  /**
   * @param {string} provider
   * @param {(progress: any) => void} onProgress
   */
  open(provider, onProgress) {
    const folder = this.files ? null : new URL(this.model.path ?? "", document.baseURI).href;
    const asked = { folder, files: this.files, provider, threads: threads() };
    return this.call("load", asked, onProgress);
  }

  /** @returns {Promise<string>} the provider to try; it falls back to WASM by itself */
  async chosen() {
    if (this.provider !== "auto") return this.provider;
    if (!this.model.bytes || this.model.bytes < SMALL || !navigator.gpu) return "wasm";
    const adapter = await navigator.gpu.requestAdapter();
    return adapter && !adapter.info?.isFallbackAdapter ? "webgpu" : "wasm";
  }

  /**
   * @param {Blob | ImageBitmap} picture
   * @returns {Promise<Seen>}
   */
  see(picture) {
    return this.call("see", { picture });
  }

  /**
   * @param {import("./back_ends.mjs").Ask} request
   * @returns {Promise<import("./back_ends.mjs").Answer>}
   */
  async ask({ turns, question, seen, budget, maxNewTokens, signal, onText }) {
    const handle = seen ? seen.handle : null;
    const request = { turns, question, handle, budget, maxNewTokens };
    const id = this.requests + 1;
    const stop = () => this.worker?.postMessage({ stop: id });
    signal.addEventListener("abort", stop, { once: true });
    try {
      return await this.call("ask", request, (message) => onText(message.text));
    } finally {
      signal.removeEventListener("abort", stop);
    }
  }

  /** @param {Seen} seen a picture that is asked about no more */
  release(seen) {
    this.worker?.postMessage({ release: seen.handle });
  }

  /** End the worker, and with it all that it holds. */
  close() {
    this.worker?.terminate();
    this.worker = null;
    for (const { reject } of this.waiting.values()) reject(new Error("another model was chosen"));
    this.waiting.clear();
  }

  /**
   * Ask the worker, and wait.
   * @param {string} method
   * @param {object} request what can be cloned
   * @param {(message: any) => void} [onMessage] what it says meanwhile
   * @returns {Promise<any>}
   */
  call(method, request, onMessage) {
    const worker = this.worker ?? this.start();
    const id = ++this.requests;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject, onMessage });
      worker.postMessage({ id, method, request });
    });
  }

  /** @returns {Worker} */
  start() {
    const worker = new Worker(new URL("worker.mjs", import.meta.url), { type: "module" });
    worker.addEventListener("message", ({ data }) => {
      const entry = this.waiting.get(data.id);
      if (!entry) return;
      if ("meanwhile" in data) return entry.onMessage?.(data.meanwhile);
      this.waiting.delete(data.id);
      if ("error" in data) entry.reject(Object.assign(new Error(), data.error));
      else entry.resolve(data.result);
    });
    worker.addEventListener("error", (event) => {
      const reason = new Error(event.message || "the worker of this page could not be started");
      for (const { reject } of this.waiting.values()) reject(reason);
      this.waiting.clear();
    });
    this.worker = worker;
    return worker;
  }
}

/**
 * Threads that compute: one where the page is not isolated; else the cores, or half of many, since
 * those that share a core help little.
 * @returns {number}
 */
export function threads() {
  const cores = navigator.hardwareConcurrency || 1;
  if (!globalThis.crossOriginIsolated) return 1;
  return cores <= 4 ? cores : Math.min(8, Math.floor(cores / 2));
}
