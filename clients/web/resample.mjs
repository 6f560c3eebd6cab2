// Knows how Pillow resizes 8-bit samples, and does it so that no sample differs.
//
// Along rows first, then along columns; what the first pass gives is rounded to 8 bits. Weights are
// computed in double precision, sum to one, and are rounded to 22 fractional bits. Where a picture
// is made smaller the filter is as much wider, so that every sample counts. Since Pillow 13 columns
// come first where the height loses far more pixels than the width: see `columnsComeFirst`.

import { ClientError } from "./errors.mjs";

/**
 * @typedef {object} Picture
 * @property {Uint8ClampedArray | Uint8Array} data RGBA, row by row, A always 255
 * @property {number} width in pixels
 * @property {number} height in pixels
 */

/**
 * Where rows of pixels come from; a picture is one, and so is a picture with a border.
 * @typedef {object} Rows
 * @property {number} width in pixels
 * @property {number} height in pixels
 * @property {(y: number) => Uint8ClampedArray | Uint8Array} row RGBA of one row, good until the
 *   next call
 */

const BITS = 32 - 8 - 2; // two more than a sample has: weights may be negative, and over one
const HALF = 1 << (BITS - 1);
const MOST_PIXELS = 1 << 26; // four times what published models resize to

const sinc = (x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));

/** Keys' cubic convolution with a = -1/2 (Keys 1981, IEEE ASSP 29, equation 15). */
function cubic(x) {
  const a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

/** A sinc under Hamming's window, whose two constants Pillow has in single precision. */
function hamming(x) {
  if (x === 0 || x >= 1) return Number(x === 0);
  return sinc(x) * (Math.fround(0.54) + Math.fround(0.46) * Math.cos(x * Math.PI));
}

/** Of each filter how far it reaches, in samples, and its weight at a distance. */
const FILTERS = {
  box: { reach: 0.5, weight: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
  bilinear: { reach: 1, weight: (x) => Math.max(1 - Math.abs(x), 0) },
  hamming: { reach: 1, weight: (x) => hamming(Math.abs(x)) },
  bicubic: { reach: 2, weight: (x) => cubic(Math.abs(x)) },
  lanczos: { reach: 3, weight: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};
const NEAREST = "nearest";

/** The names of the filters, as Pillow and `using.json` have them. */
export const FILTER_NAMES = Object.freeze([NEAREST, ...Object.keys(FILTERS)]);

/**
 * Which samples make up each sample of a line, and by how much.
 * @param {number} size of the line
 * @param {number} target of the resized line
 * @param {{reach: number, weight: (x: number) => number}} filter
 */
function tapsOf(size, target, filter) {
  const scale = size / target;
  const stretch = Math.max(scale, 1);
  const reach = filter.reach * stretch;
  const narrowing = 1 / stretch;
  const most = Math.ceil(reach) * 2 + 1;
  const taps = {
    most,
    first: new Int32Array(target),
    counts: new Int32Array(target),
    weights: new Int32Array(target * most),
  };
  const exact = new Float64Array(most);
  for (let at = 0; at < target; at++) {
    const centre = (at + 0.5) * scale;
    const low = Math.max(Math.trunc(centre - reach + 0.5), 0);
    const count = Math.min(Math.trunc(centre + reach + 0.5), size) - low;
    let sum = 0;
    for (let tap = 0; tap < count; tap++) {
      exact[tap] = filter.weight((tap + low - centre + 0.5) * narrowing);
      sum += exact[tap];
    }
    for (let tap = 0; tap < count; tap++) {
      const part = (sum === 0 ? exact[tap] : exact[tap] / sum) * (1 << BITS);
      taps.weights[at * most + tap] = Math.trunc(part < 0 ? part - 0.5 : part + 0.5);
    }
    taps.first[at] = low;
    taps.counts[at] = count;
  }
  return taps;
}

/** One row, RGBA, into `into` from `at` on, RGB. */
function resampleRow(row, taps, into, at) {
  const { most, first, counts, weights } = taps;
  for (let x = 0; x < first.length; x++) {
    let red = HALF;
    let green = HALF;
    let blue = HALF;
    const end = x * most + counts[x];
    for (let tap = x * most, from = first[x] * 4; tap < end; tap++, from += 4) {
      const weight = weights[tap];
      red = (red + Math.imul(row[from], weight)) | 0;
      green = (green + Math.imul(row[from + 1], weight)) | 0;
      blue = (blue + Math.imul(row[from + 2], weight)) | 0;
    }
    into[at++] = red >> BITS; // such an array limits to 0 and 255 itself
    into[at++] = green >> BITS;
    into[at++] = blue >> BITS;
  }
}

/** One row, RGBA, as RGB into `into` from `at` on. */
function packRow(row, width, into, at) {
  for (let from = 0; from < width * 4; from += 4) {
    into[at++] = row[from];
    into[at++] = row[from + 1];
    into[at++] = row[from + 2];
  }
}

/** Whether Pillow 13 resizes along columns first, which is rounded otherwise. */
function columnsComeFirst(rows, width, height) {
  return height < rows.height && rows.height - height > 2 * (rows.width - width);
}

/** Both passes, along rows first; `shorten` puts a row, RGBA, as RGB into an array. */
function rowsFirst(rows, width, height, down, shorten) {
  const line = width * 3;
  const start = down.first[0];
  const count = down.first[height - 1] + down.counts[height - 1] - start;
  const rgb = new Uint8ClampedArray(line * count);
  for (let y = 0; y < count; y++) shorten(rows.row(start + y), rgb, y * line);
  const data = new Uint8ClampedArray(width * height * 4);
  const sums = new Int32Array(line);
  let at = 0;
  for (let y = 0; y < height; y++) {
    sums.fill(HALF);
    for (let tap = 0; tap < down.counts[y]; tap++) {
      const weight = down.weights[y * down.most + tap];
      const from = (down.first[y] + tap - start) * line;
      for (let sample = 0; sample < line; sample++) {
        sums[sample] += Math.imul(rgb[from + sample], weight);
      }
    }
    for (let sample = 0; sample < line; sample += 3) {
      data[at++] = sums[sample] >> BITS;
      data[at++] = sums[sample + 1] >> BITS;
      data[at++] = sums[sample + 2] >> BITS;
      data[at++] = 255;
    }
  }
  return data;
}

/** Both passes, along columns first; see `rowsFirst`. */
function columnsFirst(rows, width, height, down, shorten) {
  const data = new Uint8ClampedArray(width * height * 4);
  const rgb = new Uint8ClampedArray(width * 3);
  const whole = new Uint8ClampedArray(rows.width * 4);
  const sums = new Int32Array(whole.length);
  let at = 0;
  for (let y = 0; y < height; y++) {
    sums.fill(HALF);
    for (let tap = 0; tap < down.counts[y]; tap++) {
      const weight = down.weights[y * down.most + tap];
      const row = rows.row(down.first[y] + tap);
      for (let sample = 0; sample < row.length; sample++) {
        sums[sample] += Math.imul(row[sample], weight);
      }
    }
    for (let sample = 0; sample < whole.length; sample++) whole[sample] = sums[sample] >> BITS;
    shorten(whole, rgb, 0);
    for (let sample = 0; sample < rgb.length; sample += 3) {
      data[at++] = rgb[sample];
      data[at++] = rgb[sample + 1];
      data[at++] = rgb[sample + 2];
      data[at++] = 255;
    }
  }
  return data;
}

/** Where the samples of a line are taken from that is resized without a filter. */
function nearest(size, target) {
  const step = size / target;
  const places = new Int32Array(target);
  // Added up as Pillow does: multiplied, a place between two samples may fall to the other.
  for (let at = 0, place = step * 0.5; at < target; at++, place += step) {
    places[at] = Math.min(Math.trunc(place), size - 1);
  }
  return places;
}

function resizeNearest(rows, width, height) {
  const [across, down] = [nearest(rows.width, width), nearest(rows.height, height)];
  const data = new Uint8ClampedArray(width * height * 4);
  let at = 0;
  for (let y = 0; y < height; y++) {
    const row = rows.row(down[y]);
    for (let x = 0; x < width; x++) {
      const from = across[x] * 4;
      data[at++] = row[from];
      data[at++] = row[from + 1];
      data[at++] = row[from + 2];
      data[at++] = 255;
    }
  }
  return { data, width, height };
}

/** A picture as a source of rows. */
export function rowsOf(picture) {
  const line = picture.width * 4;
  const row = (y) => picture.data.subarray(y * line, (y + 1) * line);
  return { width: picture.width, height: picture.height, row };
}

/**
 * Resize rows of pixels as Pillow's `Image.resize` does, to the last bit.
 * @param {Rows} rows
 * @param {number} width of the result in pixels
 * @param {number} height of the result in pixels
 * @param {string} filter one of `FILTER_NAMES`
 * @param {{inParts?: boolean}} [how] as if some rows were resized at a time: always along
 *   rows first
 * @returns {Picture}
 */
export function resizeRows(rows, width, height, filter, { inParts = false } = {}) {
  const sound = Number.isSafeInteger(width) && Number.isSafeInteger(height);
  if (!sound || width < 1 || height < 1 || width * height > MOST_PIXELS) {
    throw new ClientError(
      `A picture of ${rows.width} x ${rows.height} pixels is to be resized to ` +
        `${width} x ${height}, the limit is ${MOST_PIXELS} pixels: export the artifact again`,
    );
  }
  if (filter === NEAREST) return resizeNearest(rows, width, height);
  if (!Object.hasOwn(FILTERS, filter)) {
    throw new ClientError(
      `This artifact resizes pictures by the filter ${filter}, which is not served here: ` +
        "answer with PocketVLM's Python runtime",
    );
  }
  const down = tapsOf(rows.height, height, FILTERS[filter]);
  const across = width === rows.width ? null : tapsOf(rows.width, width, FILTERS[filter]);
  const shorten = (row, into, at) => {
    if (across) resampleRow(row, across, into, at);
    else packRow(row, width, into, at);
  };
  const passes = !inParts && columnsComeFirst(rows, width, height) ? columnsFirst : rowsFirst;
  return { data: passes(rows, width, height, down, shorten), width, height };
}

/**
 * Resize a picture as Pillow's `Image.resize` does, to the last bit; one that has the size already
 * is returned as it is.
 * @param {Picture} picture
 * @param {number} width of the result in pixels
 * @param {number} height of the result in pixels
 * @param {string} filter one of `FILTER_NAMES`
 * @returns {Picture}
 */
export function resize(picture, width, height, filter) {
  if (picture.width === width && picture.height === height) return picture;
  return resizeRows(rowsOf(picture), width, height, filter);
}
