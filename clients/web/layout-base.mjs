// Knows what a layout is: how a picture becomes tiles, which token ids stand in its place in a
// prompt, and which rows of features fill them.

import { ClientError } from "./errors.mjs";
import { preparePicture, preparedPart } from "./pictures.mjs";

/** @typedef {import("./resample.mjs").Picture} Picture */
/** @typedef {import("./pictures.mjs").Rectangle} Rectangle */

/**
 * Rows and columns of the visual tokens of a tile before pruning.
 * @typedef {{rows: number, columns: number}} TokenGrid
 */

/**
 * How a picture was cut; this is kept when its pixels no longer are.
 * @typedef {object} Grid
 * @property {number} width of the picture in pixels
 * @property {number} height of the picture in pixels
 * @property {number} rows of the tiles that are parts of the picture
 * @property {number} columns of them
 * @property {"first" | "last" | null} whole where a further tile holds the whole picture, smaller
 * @property {TokenGrid | null} tokens of each tile, where they follow from the picture
 * @property {TokenGrid | null} wholeTokens of the whole, where its size is another than the parts'
 * @property {number} tiles of them, the whole among them
 */

/**
 * @typedef {object} Cut
 * @property {Picture[]} tiles prepared, parts row by row
 * @property {Rectangle[]} rectangles of each tile in the picture's own pixels
 * @property {Grid} grid
 */

/** Round to a whole number, halves to the even one, as Python does. */
export function roundEven(value) {
  const low = Math.floor(value);
  if (value - low !== 0.5) return Math.round(value);
  return low % 2 === 0 ? low : low + 1;
}

/**
 * How one picture was cut.
 * @param {{width: number, height: number}} picture
 * @param {Partial<Grid>} [cut] what is not one tile of the whole picture
 * @returns {Grid}
 */
export function gridOf({ width, height }, cut = {}) {
  const grid = { width, height, rows: 1, columns: 1, whole: null, tokens: null, wholeTokens: null };
  Object.assign(grid, cut);
  return { ...grid, tiles: grid.rows * grid.columns + (grid.whole ? 1 : 0) };
}

/** Rows and columns of square patches over so many pixels; one row where they are not such a grid. */
function squares(height, width, patches) {
  const rows = roundEven(Math.sqrt((patches * height) / width));
  if (rows < 1 || patches % rows || rows * width !== (patches / rows) * height) {
    return { rows: 1, columns: patches };
  }
  return { rows, columns: patches / rows };
}

/** Arrays of numbers, one behind the other. */
export function joined(parts) {
  const whole = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** The part of a picture that one of rows x columns equal parts is, row by row. */
export function partOf({ width, height }, rows, columns, number) {
  const [wide, tall] = [width / columns, height / rows];
  return {
    x: (number % columns) * wide,
    y: Math.floor(number / columns) * tall,
    width: wide,
    height: tall,
  };
}

/** The part of a rectangle that lies in a picture; none of it is a rectangle of no size. */
function within({ width, height }, { x, y, width: wide, height: tall }) {
  const [left, top] = [Math.min(Math.max(x, 0), width), Math.min(Math.max(y, 0), height)];
  return {
    x: left,
    y: top,
    width: Math.max(Math.min(x + wide, width) - left, 0),
    height: Math.max(Math.min(y + tall, height) - top, 0),
  };
}

/**
 * What layouts have in common. One that is of this class makes a picture one tile.
 *
 * `kept` below are the patches kept of each tile, `features` the rows of each, `Float32Array`
 * (kept, hidden), in the order of the tiles.
 */
export class Layout {
  /** @param {object} facts `using.json` */
  constructor(facts) {
    const { layout, picture, image_token_id: slot } = facts;
    this.facts = facts;
    /** @type {string} */
    this.name = layout.name;
    this.options = layout.options;
    this.figures = layout.figures;
    /** Whether the decoder reads the tokens of a picture as one grid, in raster order. */
    this.oneGrid = layout.one_grid;
    /** What `arrange` reads beside features. @type {string[]} */
    this.constants = layout.constants;
    /** Tokens of a tile before pruning; of the largest where they follow from the picture. */
    this.mostTokens = layout.patches;
    /** (height, width) of a tile in pixels; null where it follows from the picture. */
    this.tileSize = layout.tile_size;
    this.steps = picture;
    this.slot = slot;
    /** What each picture goes through where a prompt has several. @type {Layout} */
    this.several = this;
  }

  /**
   * How a picture of that size is cut.
   * @param {number} width in pixels
   * @param {number} height in pixels
   * @returns {Grid}
   */
  grid(width, height) {
    return gridOf({ width, height });
  }

  /** The tiles of a picture before the steps of each. @returns {Picture[]} */
  parts(picture, _grid) {
    return [picture];
  }

  /** Where the tiles lie in the picture, once they have gone through the steps. */
  rectangles({ width, height }) {
    return [this.shown({ x: 0, y: 0, width, height }, width, height)];
  }

  /**
   * What is left by the steps of a part of the picture that goes into them.
   * @param {Rectangle} part in the picture's pixels
   * @param {number} width of it in pixels when it goes into the steps
   * @param {number} height likewise
   * @returns {Rectangle} in the picture's pixels
   */
  shown(part, width, height) {
    const left = preparedPart(width, height, this.steps);
    const [across, down] = [part.width / width, part.height / height];
    return {
      x: part.x + left.x * across,
      y: part.y + left.y * down,
      width: left.width * across,
      height: left.height * down,
    };
  }

  /**
   * Cut a picture into tiles.
   * @param {Picture} picture
   * @returns {Cut}
   */
  cut(picture) {
    const grid = this.grid(picture.width, picture.height);
    const tiles = this.parts(picture, grid).map((part) => preparePicture(part, this.steps));
    return { tiles, rectangles: this.rectangles(grid), grid };
  }

  /**
   * The numbers of the tiles that run through the vision graph together, in the prompt's order.
   * @param {Grid} grid
   * @returns {number[][]}
   */
  batches(grid) {
    const every = Array.from({ length: grid.tiles }, (_, tile) => tile);
    if (!grid.wholeTokens) return [every];
    return grid.whole === "first" ? [[0], every.slice(1)] : [every.slice(0, -1), every.slice(-1)];
  }

  /**
   * Rows and columns of a tile's tokens before pruning; a single row where they are not a grid.
   * @param {Grid} grid
   * @param {number} [tile] its number
   * @returns {TokenGrid}
   */
  tokenGrid(grid, tile = 0) {
    if (grid.wholeTokens && tile === (grid.whole === "first" ? 0 : grid.tiles - 1)) {
      return grid.wholeTokens;
    }
    return grid.tokens ?? squares(this.tileSize[0], this.tileSize[1], this.mostTokens);
  }

  /**
   * The ids that take the place of a picture's token: the slot's id for each row of features, and
   * those that the layout writes around them.
   * @param {Grid} grid
   * @param {ArrayLike<number>[]} kept
   * @returns {number[]}
   */
  slots(grid, kept) {
    return this.filled(kept.reduce((sum, each) => sum + each.length, 0));
  }

  /**
   * What fills the slots.
   * @param {Grid} grid
   * @param {Float32Array[]} features
   * @param {ArrayLike<number>[]} kept
   * @param {Record<string, Float32Array>} [constants] by name, `constants` of `using.json`
   * @returns {Float32Array} (slots, hidden)
   */
  arrange(grid, features, kept, constants = {}) {
    const missing = this.constants.filter((name) => !(name in constants));
    if (missing.length) {
      throw new ClientError(`The layout ${this.name} reads the constants ${missing.join(", ")}`);
    }
    return this.inOrder(grid, features, kept, constants);
  }

  /** As `arrange`: tile after tile. */
  inOrder(_grid, features, _kept, _constants) {
    return features.length === 1 ? features[0] : joined(features);
  }

  /**
   * Where a token lies in the picture that was cut, to draw it.
   * @param {Grid} grid
   * @param {number} tile its number
   * @param {number} index of `kept_indices`
   * @returns {Rectangle} of no size where the token is of padding alone
   */
  patches(grid, tile, index) {
    const { rows, columns } = this.tokenGrid(grid, tile);
    const { x, y, width, height } = this.rectangles(grid)[tile];
    const part = partOf({ width, height }, rows, columns, index);
    return within(grid, { ...part, x: x + part.x, y: y + part.y });
  }

  /** So many slots. */
  filled(count) {
    return new Array(count).fill(this.slot);
  }

  /** An option that is a whole number. */
  whole(name, least = 1) {
    const value = this.options[name];
    if (!Number.isSafeInteger(value) || value < least) throw this.damaged(name);
    return value;
  }

  /** An option that is a list of token ids. */
  ids(name, ids = this.options[name]) {
    const sound = Array.isArray(ids) && ids.every((id) => Number.isSafeInteger(id) && id >= 0);
    if (!sound || ids.includes(this.slot)) throw this.damaged(name);
    return ids;
  }

  /** The refusal of an option. */
  damaged(name) {
    const value = JSON.stringify(this.options[name]);
    return new ClientError(
      `The layout ${this.name} has ${name} ${value}: export the artifact again`,
    );
  }
}
