// Knows what the vision graph gave of one picture, and how any smaller budget is cut out of it
// without running again.
import { ClientError } from "./errors.mjs";
import { toPixelValues } from "./pictures.mjs";

/**
 * @typedef {object} Tile what is kept of one tile, in raster order.
 * @property {Float32Array} features (k, hidden)
 * @property {Int32Array} kept (k,) the token that each row is of, counted row by row in the tile's
 *   grid.
 * @property {Float32Array} scores (k,)
 * @property {Record<string, Float32Array>} extras (k, hidden) each
 */

let count = 0;

/**
 * A picture that was encoded: it answers any number of questions, at its graph's budget and at
 * smaller ones.
 */
export class Seen {
  /**
   * @param {any} facts
   * @param {any} layout what cut it, see layouts.mjs.
   * @param {any} picture upright RGBA.
   * @param {{grid: any, rectangles: any[]}} cut
   * @param {Tile[]} tiles
   * @param {number} budget k of the graph.
   */
  constructor(facts, layout, picture, { grid, rectangles }, tiles, budget) {
    this.facts = facts;
    this.layout = layout;
    this.picture = picture;
    this.grid = grid;
    this.rectangles = rectangles;
    this.tiles = tiles;
    this.budget = budget;
    this.key = `picture-${count++}`;
    /** Milliseconds. */
    this.timings = { preprocess: 0, vision: 0 };
    /** @type {Seen | null} the same picture as it goes into prompts that have several. */
    this.among = null;
  }

  /**
   * Which tokens a budget keeps; no graph runs.
   * @param {number} [budget] tokens of a tile.
   * @returns {Int32Array[]} of each tile the kept indices, in raster order.
   * @throws {ClientError} the graph does not serve it.
   */
  kept(budget = this.budget) {
    return this.tiles.map((tile) => {
      const rows = this.rowsOf(tile, budget);
      return Int32Array.from(rows, (row) => tile.kept[row]);
    });
  }

  /**
   * Where the tokens that a budget keeps lie in the picture.
   * @param {number} [budget]
   * @returns {{x: number, y: number, width: number, height: number}[][]} of each tile, in pixels of
   *   the picture.
   */
  patches(budget = this.budget) {
    return this.kept(budget).map((kept, tile) =>
      Array.from(kept, (index) => this.layout.patches(this.grid, tile, index)),
    );
  }

  /**
   * What the decoder reads of the picture at a budget.
   * @param {number} budget
   * @param {Record<string, Float32Array>} constants
   * @returns {import("./assembled.mjs").Filled}
   */
  filled(budget, constants) {
    const { layout, grid, tiles, facts } = this,
      kept = this.kept(budget);
    const rows = tiles.map((tile) => this.rowsOf(tile, budget));
    const taken = (/** @type {(tile: Tile) => Float32Array} */ values) =>
      tiles.map((tile, i) => rowsOf(values(tile), rows[i], facts.hidden));
    const arranged = (
      /** @type {Float32Array[]} */ each,
      /** @type {Record<string, Float32Array>} */ between,
    ) => layout.arrange(grid, each, kept, between);
    // What comes between features has no further ones.
    const nothing = Object.fromEntries(
      Object.entries(constants).map(([name, values]) => [name, new Float32Array(values.length)]),
    );
    const extras = (facts.extras ?? []).map((/** @type {string} */ name) => [
      name,
      arranged(
        taken((tile) => tile.extras[name]),
        nothing,
      ),
    ]);
    const one = facts.layout.one_grid && tiles.length === 1 && layout.oneGrid;
    return {
      key: `${this.key}/${budget}`,
      slots: layout.slots(grid, kept),
      rows: arranged(
        taken((tile) => tile.features),
        constants,
      ),
      extras: Object.fromEntries(extras),
      grid: one ? layout.tokenGrid(grid, 0) : null,
      kept: one ? kept[0] : null,
    };
  }

  /**
   * The rows of a tile that a budget keeps: those of the best scores, of equal ones the first, in
   * their order.
   * @param {Tile} tile
   * @param {number} budget
   * @returns {Int32Array}
   */
  rowsOf({ scores }, budget) {
    const all = Int32Array.from(scores, (_, row) => row);
    if (!Number.isInteger(budget) || budget < 1 || budget > this.budget)
      throw new ClientError(
        `A budget of ${budget} is not served: the loaded graph keeps ` +
          `${this.facts.nested ? "1 to " : ""}${this.budget}`,
      );
    if (budget === this.budget || budget >= all.length) return all;
    if (!this.facts.nested)
      throw new ClientError(
        `A budget of ${budget} cannot be cut out of ${this.budget}, as this method is not ` +
          "nested: load it with that budget",
      );
    return all
      .sort((a, b) => scores[b] - scores[a] || a - b)
      .slice(0, budget)
      .sort();
  }
}

/**
 * Run the vision graph on prepared tiles.
 * @param {any} ort
 * @param {any} session
 * @param {any} facts
 * @param {any} layout
 * @param {{tiles: any[], grid: any}} cut
 * @returns {Promise<Tile[]>} in the order of the tiles.
 */
export async function encodeTiles(ort, session, facts, layout, { tiles, grid }) {
  /** @type {Tile[]} */
  const encoded = new Array(tiles.length);
  const outputs = ["image_features", "kept_indices", "kept_scores", ...facts.vision.extras];
  for (const batch of layout.batches(grid)) {
    const { width, height } = tiles[batch[0]],
      size = 3 * width * height;
    const pixels = new Float32Array(batch.length * size);
    batch.forEach((/** @type {number} */ tile, /** @type {number} */ i) =>
      pixels.set(toPixelValues(tiles[tile], facts), i * size),
    );
    const result = await session.run(
      { pixel_values: new ort.Tensor("float32", pixels, [batch.length, 3, height, width]) },
      outputs,
    );
    const values = Object.fromEntries(outputs.map((name) => [name, result[name].data]));
    const k = result.kept_indices.dims[1];
    for (const output of outputs) result[output].dispose?.();
    batch.forEach((/** @type {number} */ tile, /** @type {number} */ i) => {
      encoded[tile] = tileOf(facts, values, i, k);
    });
  }
  return encoded;
}

/**
 * @param {any} facts
 * @param {Record<string, any>} values
 * @param {number} i
 * @param {number} k
 * @returns {Tile}
 */
function tileOf(facts, values, i, k) {
  const wide = (/** @type {string} */ name) =>
    values[name].slice(i * k * facts.hidden, (i + 1) * k * facts.hidden);
  const features = wide("image_features");
  for (let at = 0; at < features.length; at++)
    if (!Number.isFinite(features[at]))
      throw new ClientError(
        "The vision graph gives numbers that are not finite: try another precision or provider",
      );
  return {
    features,
    kept: Int32Array.from(values.kept_indices.slice(i * k, (i + 1) * k), Number),
    scores: values.kept_scores.slice(i * k, (i + 1) * k),
    extras: Object.fromEntries(
      facts.vision.extras.map((/** @type {string} */ name) => [name, wide(name)]),
    ),
  };
}

/**
 * @param {Float32Array} values (n, hidden)
 * @param {Int32Array} rows
 * @param {number} hidden
 * @returns {Float32Array}
 */
function rowsOf(values, rows, hidden) {
  if (rows.length * hidden === values.length) return values;
  const taken = new Float32Array(rows.length * hidden);
  rows.forEach((row, i) =>
    taken.set(values.subarray(row * hidden, (row + 1) * hidden), i * hidden),
  );
  return taken;
}
