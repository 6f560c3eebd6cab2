/**
 * Knows which back ends there are: the page itself, or a server that serves it.
 * @module
 */
import { LocalBackEnd } from "./local.mjs";
import { RemoteBackEnd } from "./remote.mjs";

/**
 * A model that a site offers. `path` is its folder, for a local back end.
 * @typedef {{name: string, path?: string, bytes?: number}} Model
 */

/**
 * Who answers, what may be asked, which pictures there are to try.
 * @typedef {{back_end: "local" | "server", models: Model[], samples: string[],
 *   questions: string[]}} Site
 */

/**
 * A picture that a back end holds: its size in pixels, what is known of its patches, how many
 * there are of a tile before pruning, and a handle of the back end's own.
 * @typedef {{width: number, height: number, tiles: import("./kept.mjs").TilePatches[] | null,
 *   patches?: number, handle: any}} Seen
 */

/**
 * What a back end is.
 * @typedef {object} BackEnd
 * @property {boolean} local whether the model runs in this page
 * @property {string[]} chips a word or two each on what computes
 * @property {string[]} notices sentences that people should read
 * @property {{model: string, budgets: number[], budget: number, patches: number | null}} facts
 *   budgets that may be asked, rising, the one to begin with, and tokens before pruning
 * @property {(options: {onProgress: (progress: {file: string, loaded: number, total: number})
 *   => void}) => Promise<void>} load
 * @property {(picture: Blob | ImageBitmap) => Promise<Seen>} see
 * @property {(request: Ask) => Promise<Answer>} ask
 * @property {(seen: Seen) => void} release
 * @property {() => void} close
 */

/**
 * A question about one picture, with the turns before it.
 * @typedef {{turns: import("./conversation.mjs").Turn[], question: string, seen: Seen | null,
 *   budget: number, maxNewTokens: number, signal: AbortSignal,
 *   onText: (piece: string) => void}} Ask
 */

/**
 * An answer. Where the back end has learnt of the picture's patches only now, `tiles` has them.
 * @typedef {{text: string, tokenIds: number[], timings: import("./bars.mjs").Timings,
 *   promptTokens: {total: number, cached: number} | null, visualTokens: number | null,
 *   stopped: boolean, tiles?: import("./kept.mjs").TilePatches[]}} Answer
 */

/**
 * Ask the page's own host who answers.
 * @returns {Promise<Site>}
 */
export async function readSite() {
  const reply = await fetch("site.json", { cache: "no-cache" });
  if (!reply.ok) throw new Error("site.json is missing beside this page: assemble it anew");
  const { back_end, models = [], samples = [], questions = [] } = await reply.json();
  return { back_end, models, samples, questions };
}

/**
 * A back end for a model, not yet loaded.
 * @param {Site["back_end"]} kind
 * @param {Model} model
 * @param {{provider?: string, files?: File[] | null}} [options] of a local one: "auto", "wasm" or
 *   "webgpu"; and the artifact's files where a person opened a folder
 * @returns {BackEnd}
 */
export function openBackEnd(kind, model, { provider = "auto", files = null } = {}) {
  return kind === "server" ? new RemoteBackEnd(model) : new LocalBackEnd(model, provider, files);
}
