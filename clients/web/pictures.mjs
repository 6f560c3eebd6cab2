// Knows how a picture becomes what a vision graph reads: decoded in a page, padded, resized, cut
// and normalised as PocketVLM's Python runtime does it.
//
// From decoded pixels on, everything here equals that runtime bit for bit. Decoding is the
// browser's: the pixels of an 8-bit PNG file are the same, those of JPEG and WebP as far as two
// decoders agree. Samples of 16 bits become 8 bits in the browser's way, and so does CMYK RGB.

import { ClientError } from "./errors.mjs";
import { resize, resizeRows, rowsOf } from "./resample.mjs";
import { upright } from "./upright.mjs";

export { FILTER_NAMES, resize } from "./resample.mjs";
export { exifOrientation, upright } from "./upright.mjs";

/** @typedef {import("./resample.mjs").Picture} Picture */

/**
 * How a tile is prepared, `picture` of `using.json`. Sizes are [height, width] in pixels.
 * @typedef {object} Steps
 * @property {number[] | null} pad_colour of the square that a picture is put in the middle of
 * @property {number | null} shortest_edge in pixels, the aspect ratio kept
 * @property {number[] | null} resize_to whatever the aspect ratio
 * @property {string} resample the filter, one of `FILTER_NAMES`
 * @property {number[] | null} crop_to of the centre, black where the picture is smaller
 * @property {number} scale that samples are multiplied by
 * @property {number[]} mean taken off each channel
 * @property {number[]} std that each channel is divided by
 */

/** A part of a picture in its pixels; it may reach beyond the picture where that is padded. */
/** @typedef {{x: number, y: number, width: number, height: number}} Rectangle */

const MOST_PIXELS = 100_000_000; // of a file, as the Python runtime
const MOST_READ = 1 << 25; // pixels that a model reads, twice the largest published limit
const MOST_EDGE = 16_384;
const MOST_SQUARE = 10_000; // edge of a padded picture that is not resized
const STRIP_PIXELS = 1 << 22; // read from a canvas at once: phones limit canvases to 16 megapixels

const FORMATS = "give JPEG, PNG, WebP or GIF";
const NO_DECODER =
  "Nothing here decodes pictures: decode it yourself, and give " +
  "upright(rgba, width, height, exifOrientation(bytes))";

/**
 * Decode a picture in a page: upright by EXIF, transparency on white.
 *
 * Transparency is composited by the canvas, whose rounding may differ from the runtime's by one.
 * @param {Blob | ArrayBuffer | Uint8Array | CanvasImageSource | ImageData} source a file, its
 *   bytes, or anything that a canvas draws, such as a video that plays
 * @returns {Promise<Picture>}
 * @throws {ClientError} no picture that this browser reads, or too large a one
 */
export async function decodePicture(source) {
  if (source instanceof Uint8Array || source instanceof ArrayBuffer) {
    source = new Blob([new Uint8Array(source)]); // a copy of bytes that may be shared
  }
  if (typeof createImageBitmap === "undefined") {
    throw new ClientError(NO_DECODER);
  }
  if (typeof ImageData !== "undefined" && source instanceof ImageData) {
    return upright(source.data, source.width, source.height);
  }
  if (!(source instanceof Blob)) return drawn(source);
  if (source.size === 0) throw new ClientError(`The picture is empty: ${FORMATS}`);
  let bitmap;
  try {
    bitmap = await createImageBitmap(source, {
      imageOrientation: "from-image",
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
    });
  } catch (error) {
    throw new ClientError(`This browser cannot read the picture: ${FORMATS}`, error);
  }
  try {
    return drawn(bitmap);
  } finally {
    bitmap.close();
  }
}

/** (width, height) in pixels of what a canvas draws. */
function sizeOf(source) {
  // A video, an image of a page and a frame have a size in the page beside that of their pixels.
  const own = ["video", "natural", "display"].find((name) => source?.[`${name}Width`] >= 0);
  if (!own) return [source?.width, source?.height];
  return [source[`${own}Width`], source[`${own}Height`]];
}

/** What a canvas draws, on white, read some rows at a time. */
function drawn(source) {
  const [width, height] = sizeOf(source);
  if (!(width > 0 && height > 0)) {
    throw new ClientError(
      "There are no pixels to read: give a file, its bytes, an image, a canvas or a running video",
    );
  }
  if (width * height > MOST_PIXELS) {
    throw new ClientError(
      `The picture has ${width} x ${height} pixels, the limit is ${MOST_PIXELS}: scale it down`,
    );
  }
  const rows = Math.min(Math.max(Math.floor(STRIP_PIXELS / width), 1), height);
  const context = canvasOf(width, rows);
  const data = new Uint8ClampedArray(width * height * 4);
  for (let top = 0; top < height; top += rows) {
    const count = Math.min(rows, height - top);
    context.fillRect(0, 0, width, count);
    context.drawImage(source, 0, top, width, count, 0, 0, width, count);
    data.set(context.getImageData(0, 0, width, count).data, top * width * 4);
  }
  return { data, width, height };
}

function canvasOf(width, height) {
  let canvas;
  if (typeof OffscreenCanvas === "undefined") {
    canvas = Object.assign(document.createElement("canvas"), { width, height });
  } else canvas = new OffscreenCanvas(width, height);
  // Read often: the canvas stays in memory, and rounds as every processor does.
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new ClientError(`No canvas of ${width} x ${height} pixels can be made`);
  context.fillStyle = "white";
  context.imageSmoothingEnabled = false;
  return context;
}

/**
 * A picture in the middle of a square of one colour, as rows that are made as they are read. An odd
 * pixel is left over at the right or at the bottom.
 */
function squared(picture, colour) {
  const { width, height } = picture;
  const edge = Math.max(width, height);
  const [left, top] = [(edge - width) >> 1, (edge - height) >> 1];
  const blank = new Uint8ClampedArray(edge * 4);
  for (let at = 0; at < blank.length; at += 4) blank.set([...colour, 255], at);
  const line = Uint8ClampedArray.from(blank);
  const source = rowsOf(picture);
  const row = (y) => {
    if (y < top || y >= top + height) return blank;
    line.set(source.row(y - top), left * 4);
    return line;
  };
  return { width: edge, height: edge, row };
}

/** [width, height] that a picture of that size is resized to; null where it is not. */
function targetOf(width, height, steps) {
  if (steps.shortest_edge == null) return steps.resize_to && [...steps.resize_to].reverse();
  const [short, long] = [Math.min(width, height), Math.max(width, height)];
  const longest = Math.trunc((steps.shortest_edge * long) / short);
  if (longest > MOST_EDGE) {
    throw new ClientError(`A picture of ${width} x ${height} pixels is too narrow: crop it first`);
  }
  return width <= height ? [steps.shortest_edge, longest] : [longest, steps.shortest_edge];
}

/**
 * Where a centre crop lies in a picture: `left` and `top` are below 0 where it is padded. An odd
 * remainder goes as in transformers.
 * @param {number} width of the picture
 * @param {number} height of it
 * @param {number[]} size [height, width] of the crop
 */
function cropOf(width, height, [tall, wide]) {
  const [across, down] = [Math.max(wide, width), Math.max(tall, height)];
  const fits = tall <= height && wide <= width;
  const padLeft = fits ? 0 : Math.ceil((across - width) / 2);
  const padTop = fits ? 0 : Math.ceil((down - height) / 2);
  const left = Math.floor((width - wide) / 2) + padLeft;
  const top = Math.floor((height - tall) / 2) + padTop;
  const right = Math.min(left + wide, across);
  const bottom = Math.min(top + tall, down);
  const [x, y] = [Math.max(left, 0), Math.max(top, 0)];
  return { left: x - padLeft, top: y - padTop, width: right - x, height: bottom - y };
}

/**
 * A part of a picture, black where it reaches beyond it.
 * @param {Picture} picture
 * @param {number} left may be below 0
 * @param {number} top may be below 0
 * @param {number} width of the part in pixels
 * @param {number} height of the part in pixels
 * @returns {Picture}
 */
export function crop(picture, left, top, width, height) {
  const data = new Uint8ClampedArray(width * height * 4);
  for (let at = 3; at < data.length; at += 4) data[at] = 255;
  const start = Math.max(left, 0);
  const end = Math.min(left + width, picture.width);
  for (let y = Math.max(top, 0); start < end && y < Math.min(top + height, picture.height); y++) {
    const from = y * picture.width;
    const row = picture.data.subarray((from + start) * 4, (from + end) * 4);
    data.set(row, ((y - top) * width + start - left) * 4);
  }
  return { data, width, height };
}

/**
 * Pad, resize and crop a picture, before it is normalised.
 * @param {Picture} picture as from `decodePicture` or `upright`
 * @param {Steps} steps `picture` of `using.json`
 * @returns {Picture} the picture itself where no step changes it
 */
export function preparePicture(picture, steps) {
  let made = picture;
  if (steps.pad_colour) {
    const square = squared(picture, steps.pad_colour);
    const target = targetOf(square.width, square.height, steps) ?? [square.width, square.height];
    if (target[0] === square.width && square.width > MOST_SQUARE) {
      throw new ClientError(
        `A picture of ${picture.width} x ${picture.height} pixels is too large to pad: crop it`,
      );
    }
    // The runtime never holds the whole square.
    made = resizeRows(square, target[0], target[1], steps.resample, { inParts: true });
  } else {
    const target = targetOf(picture.width, picture.height, steps);
    if (target) made = resize(picture, target[0], target[1], steps.resample);
  }
  if (steps.crop_to) {
    const part = cropOf(made.width, made.height, steps.crop_to);
    const whole = part.width === made.width && part.height === made.height;
    if (!whole || part.left || part.top) {
      made = crop(made, part.left, part.top, part.width, part.height);
    }
  }
  if (made.width * made.height > MOST_READ) {
    throw new ClientError(
      `A picture of ${made.width} x ${made.height} pixels is read without resizing by this model, ` +
        `the limit is ${MOST_READ}: scale it down`,
    );
  }
  return made;
}

/**
 * Where what `preparePicture` makes of a picture lies in it.
 * @param {number} width of the picture in pixels
 * @param {number} height of the picture in pixels
 * @param {Steps} steps
 * @returns {Rectangle}
 */
export function preparedPart(width, height, steps) {
  const shown = { x: 0, y: 0, width, height };
  if (steps.pad_colour) {
    const edge = Math.max(width, height);
    shown.x = -((edge - width) >> 1);
    shown.y = -((edge - height) >> 1);
    shown.width = shown.height = edge;
  }
  const target = targetOf(shown.width, shown.height, steps) ?? [shown.width, shown.height];
  if (!steps.crop_to) return shown;
  const part = cropOf(target[0], target[1], steps.crop_to);
  const [across, down] = [shown.width / target[0], shown.height / target[1]];
  return {
    x: shown.x + part.left * across,
    y: shown.y + part.top * down,
    width: part.width * across,
    height: part.height * down,
  };
}

/** What each sample becomes in one channel: 256 values, rounded to single precision each time. */
function valuesOf({ scale, mean, std }, channel) {
  const values = new Float32Array(256);
  for (let sample = 0; sample < 256; sample++) {
    // The product in double precision and back, as transformers does.
    const scaled = Math.fround(Math.fround(sample * scale) - Math.fround(mean[channel]));
    values[sample] = scaled / Math.fround(std[channel]);
  }
  return values;
}

/**
 * A prepared tile as the vision graph reads it.
 * @param {Picture} tile as from `preparePicture`
 * @param {Steps | {picture: Steps}} facts the steps, or all of `using.json`
 * @returns {Float32Array} (3, height, width), rescaled and normalised
 */
export function toPixelValues(tile, facts) {
  const steps = "picture" in facts ? facts.picture : facts;
  const pixels = tile.width * tile.height;
  const values = new Float32Array(3 * pixels);
  for (let channel = 0; channel < 3; channel++) {
    const of = valuesOf(steps, channel);
    const plane = values.subarray(channel * pixels, (channel + 1) * pixels);
    for (let at = 0, from = channel; at < pixels; at++, from += 4) plane[at] = of[tile.data[from]];
  }
  return values;
}
