// Knows how tokens are numbered for a decoder's rotary embedding; a new way is an object here and a
// name in `ALL`.

import { ClientError } from "./errors.mjs";

/** @typedef {import("./layout-base.mjs").TokenGrid} TokenGrid */

/**
 * Numbers of some tokens: a list for each axis, and the number that the next token has.
 * @typedef {{planes: number[][], next: number}} Numbers
 */

/**
 * @typedef {object} Positions
 * @property {string} name `positions` of `using.json`
 * @property {number} axes numbers that each token has
 * @property {(start: number, count: number) => Numbers} text
 * @property {(start: number, grid: TokenGrid | null, kept: ArrayLike<number | bigint>) => Numbers}
 *   picture of a picture that begins at `start` and has `grid` tokens before pruning, the numbers
 *   of those in `kept`
 */

const counted = (start, count) => Array.from({ length: count }, (_, number) => start + number);

/** 0, 1, 2, ...: a picture's tokens are numbered as text is, whatever was dropped. */
const CONTIGUOUS = {
  name: "contiguous",
  axes: 1,
  text: (start, count) => ({ planes: [counted(start, count)], next: start + count }),
  picture: (start, _grid, kept) => CONTIGUOUS.text(start, kept.length),
};

/**
 * Time, row and column (Qwen2-VL, arXiv 2409.12191, section 2.1). Text has one number in all three.
 * A picture keeps the places that its tokens had before pruning, and text goes on where the whole
 * of it would have ended.
 */
const MROPE = {
  name: "mrope",
  axes: 3,
  text: (start, count) => {
    const plane = counted(start, count);
    return { planes: [plane, plane, plane], next: start + count };
  },
  picture: (start, grid, kept) => {
    const indices = Array.from(kept, Number);
    const rising = indices.every((index, at) => at === 0 || index > indices[at - 1]);
    const tokens = grid ? grid.rows * grid.columns : 0;
    if (!grid || !rising || indices[0] < 0 || indices.at(-1) >= tokens) {
      throw new ClientError(
        `The kept tokens of a picture of ${tokens} are not rising numbers of them (${indices}): ` +
          "export the artifact again",
      );
    }
    const rows = indices.map((index) => start + Math.floor(index / grid.columns));
    const columns = indices.map((index) => start + (index % grid.columns));
    const next = start + Math.max(grid.rows, grid.columns);
    return { planes: [indices.map(() => start), rows, columns], next };
  },
};

const ALL = Object.fromEntries([CONTIGUOUS, MROPE].map((each) => [each.name, each]));

/**
 * A way of numbering by its name.
 * @param {string} name `positions` of `using.json`
 * @returns {Positions}
 */
export function positionsNamed(name) {
  if (Object.hasOwn(ALL, name)) return ALL[name];
  throw new ClientError(
    `This artifact numbers tokens by ${name}, which is not served here: ` +
      "answer with PocketVLM's Python runtime",
  );
}
