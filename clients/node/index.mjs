// Knows how Node loads a model: from a folder on disk, over onnxruntime-node; and how it reads
// pictures.
import { readFile } from "node:fs/promises";
import { Template } from "@huggingface/jinja";
import { Tokenizer } from "@huggingface/tokenizers";
import { ClientError, PocketVLM } from "../web/pocketvlm.mjs";
import { isPng } from "../web/png.mjs";

export { ClientError, PocketVLM, Seen } from "../web/pocketvlm.mjs";

/**
 * Load a model.
 * @param {string} folder that `pocketvlm export` wrote, or an address of one.
 * @param {Partial<import("../web/pocketvlm.mjs").LoadOptions>} [options]
 * @returns {Promise<PocketVLM>}
 */
export async function load(folder, options = {}) {
  const ort = options.ort ?? (await import("onnxruntime-node"));
  return PocketVLM.load(folder, { libraries: { Tokenizer, Template }, ...options, ort });
}

/**
 * Read a picture: PNG of 8 bits as it is, everything else by the package sharp, where it is
 * installed.
 * @param {string} path
 * @returns {Promise<Uint8Array | {data: Uint8ClampedArray, width: number, height: number}>} for
 *   `see`.
 * @throws {ClientError}
 */
export async function readPicture(path) {
  const bytes = new Uint8Array(await readFile(path));
  if (isPng(bytes)) return bytes;
  const { default: sharp } = await import("sharp").catch((error) => {
    throw new ClientError(`${path} is not a PNG: install the package sharp to read it`, error);
  });
  const upright = sharp(bytes)
    .rotate()
    .flatten({ background: "white" })
    .toColourspace("srgb")
    .ensureAlpha();
  const { data, info } = await upright.raw().toBuffer({ resolveWithObject: true });
  return { data: new Uint8ClampedArray(data), width: info.width, height: info.height };
}
