// Knows the layouts whose pictures are one tile each, made by the steps alone.

import { Layout, joined } from "./layout-base.mjs";

/** The whole picture is the only tile, its kept tokens in raster order. */
export class Single extends Layout {}

/** One tile, padded to a square by the steps; a newline may come behind its tokens. */
export class Squared extends Layout {
  /** See `Layout.slots`. */
  slots(grid, kept) {
    return this.filled(kept[0].length + this.constants.length);
  }

  /** See `Layout.arrange`. */
  inOrder(_grid, features, _kept, constants) {
    return joined([features[0], ...this.constants.map((name) => constants[name])]);
  }
}
