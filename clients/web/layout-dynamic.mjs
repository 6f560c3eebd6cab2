// Knows the layouts that keep a picture about its own size and proportions, in whole tokens; large
// pictures may be cut into tiles beside that.

import { ClientError } from "./errors.mjs";
import { Layout, gridOf, roundEven } from "./layout-base.mjs";
import { nearestShape, partsAndWhole, partsOf } from "./layout-tiles.mjs";
import { resize } from "./pictures.mjs";

/**
 * [height, width] near a picture's own, in multiples of `factor`, the area within the limits where
 * the proportions allow that. Computed in this order, as transformers does, rounding included.
 * @param {number} height in pixels
 * @param {number} width in pixels
 * @param {{factor: number, least: number, most: number, edge?: number}} limits pixels of a token's
 *   edge, of the smallest and the largest picture, and of the edge that is rounded to at least
 * @returns {[number, number]}
 */
export function smartSize(height, width, { factor, least, most, edge = 0 }) {
  const rounded = (length) => Math.max(edge, roundEven(length / factor) * factor);
  const [tall, wide] = [rounded(height), rounded(width)];
  if (tall * wide > most) {
    const shrink = Math.sqrt((height * width) / most);
    const down = (length) => Math.max(factor, Math.floor(length / shrink / factor) * factor);
    return [down(height), down(width)];
  }
  if (tall * wide < least) {
    const grow = Math.sqrt(least / (height * width));
    const up = (length) => Math.ceil((length * grow) / factor) * factor;
    return [up(height), up(width)];
  }
  return [tall, wide];
}

/** Qwen-VL's: one tile. */
export class SmartResize extends Layout {
  constructor(facts) {
    super(facts);
    this.factor = this.whole("factor");
    this.size = this.options.size ?? null;
    this.limits = { factor: this.factor, least: 0, most: 0, edge: this.leastEdge };
    if (this.size) return;
    this.limits.least = this.whole("min_pixels");
    this.limits.most = this.whole("max_pixels", this.factor ** 2);
  }

  /** Pixels that an edge is rounded to at least, before the area is looked at. */
  get leastEdge() {
    return 0;
  }

  /** See `Layout.grid`. */
  grid(width, height) {
    return gridOf({ width, height }, { tokens: this.tokens(...this.resized(height, width)) });
  }

  /** See `Layout.parts`. */
  parts(picture, _grid) {
    return [this.shrunk(picture)];
  }

  /** See `Layout.rectangles`. */
  rectangles({ width, height }) {
    return [{ x: 0, y: 0, width, height }];
  }

  /** [height, width] that a picture is resized to. */
  resized(height, width) {
    if (this.size) return this.size;
    const narrow =
      Math.max(height, width) > this.figures.most_aspect * Math.min(height, width);
    const size = narrow ? null : smartSize(height, width, this.limits);
    // Where few tokens are allowed, a narrow picture takes more of them, as in transformers.
    const tokens = size && this.tokens(...size);
    if (!tokens || tokens.rows * tokens.columns > this.mostTokens) {
      throw new ClientError(
        `A picture of ${width} x ${height} pixels is too narrow: crop it first`,
      );
    }
    return size;
  }

  tokens(height, width) {
    return { rows: Math.floor(height / this.factor), columns: Math.floor(width / this.factor) };
  }

  shrunk(picture) {
    const [height, width] = this.resized(picture.height, picture.width);
    return resize(picture, width, height, this.steps.resample);
  }
}

/** LFM2-VL's pictures in one tile: between ids that mark them, no edge rounded down to nothing. */
export class MarkedResize extends SmartResize {
  constructor(facts) {
    super(facts);
    this.before = this.ids("before");
    this.after = this.ids("after");
  }

  /** See `SmartResize`. */
  get leastEdge() {
    return this.factor;
  }

  /** See `Layout.slots`. */
  slots(grid, kept) {
    return [...this.before, ...super.slots(grid, kept), ...this.after];
  }
}

/** LFM2-VL's tiles: large pictures are cut, and the whole comes behind at its own size. */
export class TilesAndThumbnail extends MarkedResize {
  constructor(facts) {
    super(facts);
    this.tile = this.whole("tile", this.factor);
    this.patch = this.whole("patch");
    this.cutAbove = this.whole("cut_above");
    // In transformers' own order, which decides between grids that are as near; none: never cut.
    this.shapes = this.figures.grids.map(([columns, rows]) => ({ rows, columns }));
  }

  /** See `Layout.grid`. */
  grid(width, height) {
    const whole = super.grid(width, height);
    if (!this.isLarge(height, width)) return whole;
    const { rows, columns } = nearestShape(width, height, this.tile ** 2, this.shapes);
    const side = this.tile / this.factor;
    const tokens = { rows: side, columns: side };
    if (!this.options.thumbnail) return gridOf(whole, { rows, columns, tokens });
    const wholeTokens = whole.tokens;
    return gridOf(whole, { rows, columns, whole: "last", tokens, wholeTokens });
  }

  /** See `Layout.parts`. */
  parts(picture, { rows, columns, whole }) {
    if (rows * columns === 1) return [this.shrunk(picture)];
    const { tile } = this;
    const canvas = resize(picture, tile * columns, tile * rows, this.steps.resample);
    const parts = partsOf(canvas, tile, tile);
    return whole ? [...parts, this.shrunk(picture)] : parts;
  }

  /** See `Layout.rectangles`. */
  rectangles(grid) {
    return partsAndWhole(grid);
  }

  /** See `Layout.slots`: those of each tile behind the ids that name it. */
  slots(grid, kept) {
    const parts = grid.rows * grid.columns;
    if (parts === 1) return super.slots(grid, kept);
    const ids = [...this.before];
    for (let tile = 0; tile < grid.tiles; tile++) {
      const [row, column] = [Math.floor(tile / grid.columns), tile % grid.columns];
      if (tile < parts) ids.push(...this.ids("parts", this.options.parts[row]?.[column]));
      else ids.push(...this.ids("whole"));
      ids.push(...this.filled(kept[tile].length));
    }
    return [...ids, ...this.after];
  }

  isLarge(height, width) {
    if (!this.shapes.length) return false;
    const rounded = (length) =>
      Math.max(this.patch, roundEven(length / this.factor) * this.factor);
    return rounded(height) * rounded(width) > this.cutAbove;
  }
}
