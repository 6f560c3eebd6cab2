// Knows where files come from: a server with the browser's cache in front of it, a folder on disk,
// or whoever gives them.
import { ClientError, reasonOf } from "./errors.mjs";

/**
 * @typedef {object} Progress
 * @property {string} file the name in the artifact's folder.
 * @property {number} loaded bytes of it so far.
 * @property {number} total bytes of it.
 * @property {boolean} cached whether it came from the browser's cache.
 */

/**
 * @typedef {object} Files where the files of an artifact come from.
 * @property {(file: string) => Promise<Uint8Array>} bytes
 * @property {(file: string) => Promise<Blob | Uint8Array>} weights for files that are large.
 * @property {((file: string) => string) | null} path where files lie on disk.
 * @property {() => Promise<any>} facts using.json.
 * @property {string[]} notices
 * @property {(key: string) => Promise<boolean>} remembers whether `remember` was called with it
 *   before.
 * @property {(key: string) => Promise<void>} remember
 */

const FACTS = "using.json";
const PREFIX = "pocketvlm-";
const FACTS_CACHE = `${PREFIX}facts`;

/** Whether this is Node, where files lie on disk. */
export const inNode = typeof process !== "undefined" && Boolean(process.versions?.node);

/**
 * The files at an address or path.
 * @param {string} base of the artifact's folder.
 * @param {{fetchFile?: (file: string) => Promise<Uint8Array | Blob>, onProgress?: (progress:
 *   Progress) => void}} options
 * @returns {Promise<Files>}
 */
export async function openFiles(base, { fetchFile, onProgress }) {
  if (fetchFile) return given(fetchFile);
  if (inNode && !/^(https?|file):/.test(base)) return onDisk(base);
  return new Served(base.endsWith("/") ? base : `${base}/`, onProgress ?? (() => {}));
}

/** @param {(file: string) => Promise<Uint8Array | Blob>} fetchFile @returns {Files} */
function given(fetchFile) {
  const weights = async (/** @type {string} */ file) => fetchFile(inside(file));
  const bytes = async (/** @type {string} */ file) => asBytes(await weights(file));
  const facts = async () => parsed(await bytes(FACTS), FACTS);
  return { bytes, weights, path: null, facts, notices: [], ...memory() };
}

/** @param {string} folder @returns {Promise<Files>} */
async function onDisk(folder) {
  const { readFile } = await import("node:fs/promises");
  const path = (/** @type {string} */ file) => `${folder.replace(/\/$/, "")}/${inside(file)}`;
  const bytes = async (/** @type {string} */ file) => {
    const place = path(file);
    try {
      return new Uint8Array(await readFile(place));
    } catch (error) {
      throw new ClientError(`${place} cannot be read (${reasonOf(error)})`, error);
    }
  };
  return {
    bytes,
    weights: bytes,
    path,
    facts: async () => parsed(await bytes(FACTS), FACTS),
    notices: [],
    ...memory(),
  };
}

/**
 * A name of using.json that stays in the artifact's folder, on a disk and in an address: there `%2e`
 * is a dot too.
 * @param {string} file
 * @throws {ClientError} one that leads elsewhere.
 */
function inside(file) {
  const parts = String(file).split("/");
  if (parts.some((part) => ["", ".", ".."].includes(part) || /[\\:%?#]/.test(part)))
    throw new ClientError(
      `using.json names the file ${file}, which is not in its folder: export it again`,
    );
  return file;
}

/** Remembers for as long as the program runs. */
function memory() {
  /** @type {Set<string>} */
  const keys = new Set();
  return {
    remembers: async (/** @type {string} */ key) => keys.has(key),
    remember: async (/** @type {string} */ key) => void keys.add(key),
  };
}

/** @param {Uint8Array} bytes @param {string} name */
function parsed(bytes, name) {
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch (error) {
    throw new ClientError(`${name} is not JSON (${reasonOf(error)}): copy the folder again`, error);
  }
}

/** @param {Uint8Array | Blob} content */
async function asBytes(content) {
  return content instanceof Blob ? new Uint8Array(await content.arrayBuffer()) : content;
}

/**
 * Files of a server. What was fetched once stays in the browser's cache, by the artifact's content:
 * another id is another
 * cache, and the old one goes. using.json is asked for anew each time, and taken from the cache
 * without network.
 * @implements {Files}
 */
class Served {
  /** @param {string} base @param {(progress: Progress) => void} onProgress */
  constructor(base, onProgress) {
    this.base = base;
    this.onProgress = onProgress;
    this.path = null;
    /** @type {string[]} */
    this.notices = [];
    /** @type {Record<string, number>} */
    this.sizes = {};
    /** @type {Cache | null} */
    this.cache = null;
    this.memory = memory();
  }

  async facts() {
    const facts = await this.freshFacts();
    this.sizes = facts.files ?? {};
    if (typeof caches === "undefined") {
      this.notices.push(
        "The browser keeps nothing for the next visit, as this page is not a secure context: " +
          "serve it by https or from localhost.",
      );
      return facts;
    }
    try {
      this.cache = await caches.open(PREFIX + facts.artifact);
    } catch (error) {
      this.notices.push(`The browser keeps nothing for the next visit (${reasonOf(error)}).`);
    }
    return facts;
  }

  /** using.json from the server, else as it was at the last visit. */
  async freshFacts() {
    const url = this.base + FACTS;
    const kept =
      typeof caches === "undefined" ? null : await caches.open(FACTS_CACHE).catch(() => null);
    const before = await kept?.match(url).then((response) => response?.json());
    let response;
    try {
      response = await fetched(url, { cache: "no-cache" });
    } catch (error) {
      if (before) return before;
      throw error;
    }
    const facts = parsed(new Uint8Array(await response.clone().arrayBuffer()), FACTS);
    if (before && before.artifact !== facts.artifact) await caches.delete(PREFIX + before.artifact);
    await kept?.put(url, response).catch(() => {});
    return facts;
  }

  /** @param {string} file */
  async bytes(file) {
    return asBytes(await this.weights(file));
  }

  /** @param {string} file @returns {Promise<Blob | Uint8Array>} */
  async weights(file) {
    const url = this.base + inside(file);
    const hit = await this.cache?.match(url);
    if (hit) {
      const blob = await hit.blob();
      if (this.isWhole(file, blob.size)) {
        this.onProgress({ file, loaded: blob.size, total: blob.size, cached: true });
        return blob;
      }
      await this.cache?.delete(url);
    }
    return (await this.intoCache(file, url)) ?? this.intoMemory(file, url);
  }

  /**
   * Through the cache, so that a large file is never in memory twice; null where the cache takes
   * none.
   */
  async intoCache(/** @type {string} */ file, /** @type {string} */ url) {
    if (!this.cache) return null;
    const response = await fetched(url);
    if (!response.body) return null;
    try {
      // The server's headers would say how it was sent, and may forbid to keep it.
      const headers = { "content-type": "application/octet-stream" };
      await this.cache.put(url, new Response(this.counted(file, response), { headers }));
    } catch (error) {
      this.notices.push(
        `The browser does not keep ${file} for the next visit (${reasonOf(error)}).`,
      );
      return null;
    }
    const blob = await (await this.cache.match(url))?.blob();
    if (!blob || this.isWhole(file, blob.size)) return blob ?? null;
    await this.cache.delete(url);
    throw cutOff(file, blob.size, this.sizes[file]);
  }

  async intoMemory(/** @type {string} */ file, /** @type {string} */ url) {
    const response = await fetched(url);
    const body = response.body ? new Response(this.counted(file, response)) : response;
    const bytes = new Uint8Array(await body.arrayBuffer());
    if (!this.isWhole(file, bytes.length)) throw cutOff(file, bytes.length, this.sizes[file]);
    return bytes;
  }

  /** The body, counted on its way. */
  counted(/** @type {string} */ file, /** @type {Response} */ response) {
    const total = this.sizes[file] ?? Number(response.headers.get("content-length") ?? 0);
    let loaded = 0;
    const report = this.onProgress;
    const count = new TransformStream({
      transform(chunk, controller) {
        loaded += chunk.byteLength;
        report({ file, loaded, total, cached: false });
        controller.enqueue(chunk);
      },
    });
    return /** @type {ReadableStream<Uint8Array>} */ (response.body).pipeThrough(count);
  }

  isWhole(/** @type {string} */ file, /** @type {number} */ bytes) {
    return this.sizes[file] === undefined || this.sizes[file] === bytes;
  }

  async remembers(/** @type {string} */ key) {
    if (!this.cache) return this.memory.remembers(key);
    return Boolean(await this.cache.match(this.noteOf(key)));
  }

  async remember(/** @type {string} */ key) {
    await this.memory.remember(key);
    await this.cache?.put(this.noteOf(key), new Response("passed")).catch(() => {});
  }

  noteOf(/** @type {string} */ key) {
    return `${this.base}self-test-passed?${encodeURIComponent(key)}`;
  }
}

/** @param {string} url @param {RequestInit} [options] */
async function fetched(url, options) {
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    throw new ClientError(
      `${url} cannot be fetched (${reasonOf(error)}): the server is away, or does not allow ` +
        "other pages to read it",
      error,
    );
  }
  if (!response.ok)
    throw new ClientError(`${url} is not there (the server says ${response.status})`);
  return response;
}

/** @param {string} file @param {number} bytes @param {number} total */
function cutOff(file, bytes, total) {
  return new ClientError(`${file} has ${bytes} bytes instead of ${total}: load it again`);
}
