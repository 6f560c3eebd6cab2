// Knows how decoded pixels become an upright picture without transparency, and what a photograph
// says about which way is up.

import { ClientError } from "./errors.mjs";

/** @typedef {import("./resample.mjs").Picture} Picture */

const ORIENTATION = 0x0112;
// Bytes of the whole numbers that EXIF may state it as, by their type, and how they are read.
const WHOLE = {
  1: [1, "getUint8"],
  3: [2, "getUint16"],
  4: [4, "getUint32"],
  6: [1, "getInt8"],
  8: [2, "getInt16"],
  9: [4, "getInt32"],
};
const XMP = "http://ns.adobe.com/xap/1.0/\0";
const EXIF = "Exif\0\0";

/**
 * A sample over white as Pillow composites it: rounded, with seven further bits until the end.
 * @param {number} sample 0 to 255
 * @param {number} alpha 0 to 255
 */
function overWhite(sample, alpha) {
  const sum = (sample * alpha + 255 * (255 - alpha) + 128) * 128;
  return ((sum >> 8) + sum) >> 15;
}

/**
 * Where the pixels of a turned picture lie in the picture: the first one, and the steps to the next
 * along a row and along a column.
 */
function turn(width, height, orientation) {
  const last = width * height - 1;
  const [right, bottom] = [width - 1, last - width + 1];
  return {
    2: [right, -1, width],
    3: [last, -1, -width],
    4: [bottom, 1, -width],
    5: [0, width, 1],
    6: [bottom, -width, 1],
    7: [last, -width, -1],
    8: [right, width, -1],
  }[orientation] ?? [0, 1, width];
}

/**
 * A picture upright and on white, from decoded pixels.
 *
 * Equal to what PocketVLM's Python runtime makes of the same pixels, bit for bit.
 * @param {Uint8Array | Uint8ClampedArray} rgba row by row, alpha not multiplied in
 * @param {number} width in pixels
 * @param {number} height in pixels
 * @param {number} [orientation] EXIF's, 1 to 8; any other number is 1
 * @returns {Picture}
 */
export function upright(rgba, width, height, orientation = 1) {
  if (!(width > 0 && height > 0) || rgba.length !== width * height * 4) {
    throw new ClientError(
      `A picture of ${width} x ${height} pixels comes in ${rgba.length} bytes: give four a pixel`,
    );
  }
  const [start, across, down] = turn(width, height, orientation);
  const turned = orientation >= 5 && orientation <= 8;
  const [wide, tall] = turned ? [height, width] : [width, height];
  const data = new Uint8ClampedArray(rgba.length);
  let at = 0;
  for (let y = 0; y < tall; y++) {
    let from = (start + y * down) * 4;
    for (let x = 0; x < wide; x++, from += across * 4) {
      const alpha = rgba[from + 3];
      for (let channel = 0; channel < 3; channel++) {
        const sample = rgba[from + channel];
        data[at + channel] = alpha === 255 ? sample : overWhite(sample, alpha);
      }
      data[at + 3] = 255;
      at += 4;
    }
  }
  return { data, width: wide, height: tall };
}

/** The text of bytes, a character each. */
function latin(bytes) {
  return new TextDecoder("latin1").decode(bytes);
}

function joined(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** The segments of a JPEG file before its pixels: the second byte of each marker, and its bytes. */
function* segmentsOf(bytes) {
  let at = 2;
  while (at + 4 <= bytes.length && bytes[at] === 0xff) {
    const marker = bytes[at + 1];
    if (marker === 0xda || marker === 0xd9) return;
    const alone = marker === 0x01 || (marker >= 0xd0 && marker <= 0xd8);
    if (marker === 0xff) at += 1; // a byte that fills
    else if (alone) at += 2;
    else {
      const end = at + 2 + bytes[at + 2] * 256 + bytes[at + 3];
      yield { marker, body: bytes.subarray(at + 4, end) };
      at = end;
    }
  }
}

/** What the first list of tags in EXIF states; null where it does not. */
function orientationIn(exif) {
  const order = latin(exif.subarray(0, 2));
  if ((order !== "II" && order !== "MM") || exif.length < 8) return null;
  const little = order === "II";
  const view = new DataView(exif.buffer, exif.byteOffset, exif.byteLength);
  const first = view.getUint32(4, little);
  if (first + 2 > exif.length) return null;
  const end = Math.min(first + 2 + 12 * view.getUint16(first, little), exif.length - 11);
  for (let at = first + 2; at < end; at += 12) {
    const kind = WHOLE[view.getUint16(at + 2, little)];
    if (view.getUint16(at, little) !== ORIENTATION || !kind) continue;
    if (view.getUint32(at + 4, little) === 1) return view[kind[1]](at + 8, little);
  }
  return null;
}

/**
 * EXIF's orientation of a JPEG file, 1 to 8: by its EXIF, else by its XMP; 1 where neither states
 * it, where they are damaged, and for files that are not JPEGs.
 * @param {Uint8Array} bytes of the file
 * @returns {number}
 */
export function exifOrientation(bytes) {
  if (bytes[0] !== 0xff || bytes[1] !== 0xd8) return 1;
  const exif = []; // of as many segments as it fills
  let xmp = "";
  for (const { marker, body } of segmentsOf(bytes)) {
    if (marker !== 0xe1) continue;
    const name = latin(body.subarray(0, XMP.length));
    if (name.startsWith(EXIF)) exif.push(body.subarray(EXIF.length));
    else if (name === XMP) xmp = latin(body.subarray(XMP.length));
  }
  const stated = orientationIn(joined(exif));
  const orientation = stated ?? Number(/tiff:Orientation(?:="|>)([0-9])/.exec(xmp)?.[1] ?? 1);
  return orientation >= 1 && orientation <= 8 ? orientation : 1;
}
