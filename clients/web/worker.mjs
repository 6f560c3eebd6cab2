/**
 * Knows the worker of the page: it holds the model and the pictures, and answers.
 * @module
 */
import { messagesOf } from "./conversation.mjs";
import { PocketVLM } from "./pocketvlm.mjs";
import { openRuntime } from "./runtimes.mjs";

/** @type {any} */
let vlm = null;
/** @type {Map<number, {seen: any, asked: boolean}>} pictures by handle */
const pictures = new Map();
/** @type {Map<number, AbortController>} answers that may be stopped, by request */
const running = new Map();
let handles = 0;

/** @type {Record<string, (request: any, tell: (meanwhile: any) => void, id: number) => any>} */
const methods = { load, see, ask };

self.addEventListener("message", async ({ data }) => {
  if ("stop" in data) return running.get(data.stop)?.abort();
  if ("release" in data) return void pictures.delete(data.release);
  const { id, method, request } = data;
  const tell = (/** @type {any} */ meanwhile) => self.postMessage({ id, meanwhile });
  try {
    self.postMessage({ id, result: await methods[method](request, tell, id) });
  } catch (error) {
    const { name = "Error", message = String(error) } = /** @type {Error} */ (error ?? {});
    self.postMessage({ id, error: { name, message } });
  }
});

/**
 * Open the model.
 * @param {{folder: string | null, files: File[] | null, provider: "wasm" | "webgpu",
 *   threads: number}} request
 * @param {(progress: any) => void} tell
 */
async function load({ folder, files, provider, threads }, tell) {
  const ort = await openRuntime(provider, threads, tell);
  const fetchFile = files ? fromFolder(files) : undefined;
  // The largest graph: where budgets are nested, it serves all others.
  /** @type {import("./pocketvlm.mjs").LoadOptions} */
  const options = { ort, provider, threads, onProgress: tell, fetchFile, budget: "largest" };
  vlm = await PocketVLM.load(folder ?? "folder/", options);
  const { model, vision, nested, patches } = vlm.facts;
  const budgets = nested ? vision.budgets : [vlm.budget];
  const budget = vision.default_budget;
  const { provider: computes, notices } = vlm;
  return { model, budgets, budget, nested, patches, provider: computes, notices: [...notices] };
}

/**
 * Files of a folder that a person opened; the first part of their names is the folder's own.
 * @param {File[]} files
 * @returns {(name: string) => Promise<Blob>}
 */
function fromFolder(files) {
  const inside = (/** @type {File} */ file) => file.webkitRelativePath.split("/").slice(1).join("/");
  const byName = new Map(files.map((file) => [inside(file) || file.name, file]));
  return async (name) => {
    const file = byName.get(name);
    if (!file) throw new Error(`The folder has no ${name}: open one that the export wrote, whole`);
    return file;
  };
}

/**
 * Look at a picture.
 * @param {{picture: Blob | ImageBitmap}} request
 */
async function see({ picture }) {
  const seen = await vlm.see(picture);
  if (picture instanceof ImageBitmap) picture.close();
  const handle = ++handles;
  pictures.set(handle, { seen, asked: false });
  const { width, height } = seen.picture;
  const { rows, columns } = vlm.layout.tokenGrid(seen.grid, 0);
  return { handle, width, height, patches: rows * columns, tiles: tilesOf(seen) };
}

/**
 * The patches of each tile, the best first.
 * @param {any} seen
 * @returns {import("./kept.mjs").TilePatches[]}
 */
function tilesOf(seen) {
  // Of budgets that are not nested there is no order among what one of them keeps.
  const ranked = vlm.facts.nested ? seen.ranked() : null;
  const last = seen.grid.tiles - 1;
  return seen.patches().map((/** @type {any[]} */ patches, /** @type {number} */ tile) => ({
    whole: seen.grid.whole !== null && tile === (seen.grid.whole === "first" ? 0 : last),
    ranked: ranked ? Array.from(ranked[tile], (row) => patches[row]) : patches,
  }));
}

/**
 * Answer a question.
 * @param {any} request see back_ends.mjs; `handle` is a picture's, or null
 * @param {(piece: {text: string}) => void} tell
 * @param {number} id of the request
 * @returns {Promise<import("./back_ends.mjs").Answer>}
 */
async function ask({ turns, question, handle, budget, maxNewTokens }, tell, id) {
  const picture = handle === null ? null : pictures.get(handle);
  if (picture === undefined) throw new Error("The picture was put away: choose it again");
  const controller = new AbortController();
  running.set(id, controller);
  try {
    const answer = vlm.answer({
      messages: messagesOf(turns, question, picture && { type: "image" }),
      pictures: picture ? [picture.seen] : [],
      budget: picture ? budget : undefined,
      maxNewTokens,
      signal: controller.signal,
    });
    for await (const text of answer) tell({ text });
    return finished(await answer.result, picture);
  } finally {
    running.delete(id);
  }
}

/**
 * @param {any} result of `PocketVLM.answer`
 * @param {{asked: boolean} | null} picture
 * @returns {import("./back_ends.mjs").Answer}
 */
function finished(result, picture) {
  const { preprocess, vision, embed, prefill, ttft, decode } = result.timings;
  /** @type {import("./bars.mjs").Timings} */
  const timings = { embed, prefill, ttft };
  if (picture && !picture.asked) {
    // Later questions go on from what was seen.
    Object.assign(timings, { preprocess, vision, ttft: ttft + preprocess + vision });
    picture.asked = true;
  }
  if (result.tokenIds.length > 1) timings.decode = decode / (result.tokenIds.length - 1);
  return {
    text: result.text,
    tokenIds: result.tokenIds,
    timings,
    promptTokens: result.promptTokens,
    visualTokens: picture ? result.visualTokens : null,
    stopped: result.finishReason === "interrupted",
  };
}
