// Knows the layouts: each is a way in which a picture becomes tiles, slots in a prompt and rows
// that fill them. A new one is a class and a name here.

import { ClientError } from "./errors.mjs";
import { AnyRes, AnyResShrunk, AnyResUnpadded } from "./layout-anyres.mjs";
import { MarkedResize, SmartResize, TilesAndThumbnail } from "./layout-dynamic.mjs";
import { Single, Squared } from "./layout-one-tile.mjs";
import { ClosestTiles, Idefics3 } from "./layout-tiles.mjs";

/** @typedef {import("./layout-base.mjs").Layout} Layout */

/** Every layout that is served, by its name in `using.json`. */
export const LAYOUTS = Object.freeze({
  single: Single,
  squared: Squared,
  tiles: ClosestTiles,
  idefics3: Idefics3,
  "smart-resize": SmartResize,
  "marked-resize": MarkedResize,
  "tiles-and-thumbnail": TilesAndThumbnail,
  "anyres-fastervlm": AnyRes,
  "anyres-hf": AnyResUnpadded,
  "anyres-max": AnyResShrunk,
});

/**
 * The layout of an artifact.
 * @param {object} facts `using.json`: `layout`, `picture` and `image_token_id` are read
 * @returns {Layout}
 * @throws {ClientError} one that is not served here, or options that are damaged
 */
export function openLayout(facts) {
  const name = facts.layout?.name;
  if (!name || !Object.hasOwn(LAYOUTS, name)) {
    throw new ClientError(
      name
        ? `This artifact puts pictures together by the layout ${name}, which is not served here: ` +
            "answer with PocketVLM's Python runtime"
        : "using.json does not say by which layout pictures are put together: export it again",
    );
  }
  const layout = new LAYOUTS[name](facts);
  const { several } = facts.layout;
  if (several) layout.several = openLayout({ ...facts, layout: several, picture: several.picture });
  return layout;
}
