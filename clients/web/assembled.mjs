// Knows a whole prompt as a decoder reads it: ids, which of them are slots of a picture, and the
// position of each.
import { ClientError } from "./errors.mjs";
import { positionsNamed } from "./positions.mjs";

/**
 * @typedef {object} Filled what a picture puts into a prompt.
 * @property {string} key equal of equal rows.
 * @property {ArrayLike<number>} slots token ids in its place, the image token for each row.
 * @property {Float32Array} rows (slots, hidden).
 * @property {Record<string, Float32Array>} extras further rows by name.
 * @property {{rows: number, columns: number} | null} grid of its tokens before pruning, where the
 *   decoder reads one grid.
 * @property {ArrayLike<number> | null} kept which of the grid each row is.
 */

/**
 * @typedef {object} Assembled
 * @property {number[]} ids
 * @property {(number | string)[]} keys of each token: an id of text, a name of a picture's row.
 *   Tokens with equal keys, all before them equal too, are in a cache the same.
 * @property {Int32Array} pictures of each token the number of its picture from 1, 0 of text.
 * @property {Int32Array} rows of each slot which row of its picture it is.
 * @property {Int32Array[]} planes positions, one array for each number that a token has.
 * @property {number} next the position behind the last token.
 * @property {Filled[]} filled
 */

/**
 * Put pictures into the places of their tokens.
 * @param {any} facts
 * @param {ArrayLike<number>} ids one image token for each picture.
 * @param {Filled[]} filled
 * @returns {Assembled}
 * @throws {ClientError} other numbers of pictures or rows than places.
 */
export function assemble(facts, ids, filled) {
  const image = facts.image_token_id;
  /** @type {number[]} */
  const whole = [];
  /** @type {number[]} */
  const pictures = [];
  let seen = 0;
  for (let i = 0; i < ids.length; i++) {
    if (ids[i] !== image) {
      whole.push(ids[i]);
      pictures.push(0);
      continue;
    }
    if (seen === filled.length)
      throw new ClientError(
        `The prompt has more places of pictures than the ${filled.length} given`,
      );
    for (const id of Array.from(filled[seen++].slots)) {
      whole.push(id);
      pictures.push(id === image ? seen : 0);
    }
  }
  if (seen !== filled.length)
    throw new ClientError(`The prompt has places for ${seen} of ${filled.length} pictures`);
  return { ids: whole, ...numbered(facts, whole, pictures, filled), filled };
}

/**
 * @param {any} facts
 * @param {number[]} ids
 * @param {number[]} pictures
 * @param {Filled[]} filled
 */
function numbered(facts, ids, pictures, filled) {
  const positions = positionsNamed(facts.positions);
  const n = ids.length,
    rows = new Int32Array(n),
    used = new Array(filled.length).fill(0);
  const planes = Array.from({ length: positions.axes }, () => new Int32Array(n));
  /** @type {(number | string)[]} */
  const keys = new Array(n);
  let next = facts.first_position ?? 0;
  for (let start = 0, end = 0; start < n; start = end) {
    const number = pictures[start],
      picture = filled[number - 1];
    while (end < n && pictures[end] === number) {
      if (picture) rows[end] = used[number - 1]++;
      keys[end] = picture ? `${picture.key}:${rows[end]}` : ids[end];
      end++;
    }
    const piece = picture
      ? positions.picture(next, picture.grid, picture.kept ?? rows.subarray(start, end))
      : positions.text(next, end - start);
    piece.planes.forEach((plane, axis) => planes[axis].set(plane.slice(0, end - start), start));
    next = piece.next;
  }
  filled.forEach(({ rows: features }, number) => {
    if (used[number] * facts.hidden === features.length) return;
    const given = features.length / facts.hidden;
    throw new ClientError(
      `The vision graph gives ${given} rows for ${used[number]} places in the prompt`,
    );
  });
  return { keys, pictures: Int32Array.from(pictures), rows, planes, next };
}

/**
 * How many tokens two prompts begin with alike.
 * @param {(number | string)[]} one @param {(number | string)[]} other
 */
export function commonLength(one, other) {
  const shorter = Math.min(one.length, other.length);
  let length = 0;
  while (length < shorter && one[length] === other[length]) length++;
  return length;
}
