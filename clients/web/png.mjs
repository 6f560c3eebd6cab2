// Knows PNG files of 8 bits a sample, which every artifact brings for its self-test; read so that
// no colour management and
// no canvas changes a sample.
import { ClientError } from "./errors.mjs";

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const MOST_PIXELS = 1 << 27;
/**
 * @type {Record<number, number>} samples of a pixel by PNG's colour type: grey, RGB, palette, grey
 *   and alpha, RGBA.
 */
const CHANNELS = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };

/** Whether a file is PNG. @param {Uint8Array} bytes */
export function isPng(bytes) {
  return SIGNATURE.every((byte, i) => bytes[i] === byte);
}

/**
 * The samples of a PNG file.
 * @param {Uint8Array} bytes of 8 bits a sample, not interlaced.
 * @returns {Promise<{data: Uint8ClampedArray, width: number, height: number}>} RGBA; alpha as it is
 *   in the file.
 * @throws {ClientError}
 */
export async function decodePng(bytes) {
  const { header, palette, alpha, packed } = chunksOf(bytes);
  const view = new DataView(header.buffer, header.byteOffset, header.byteLength);
  const width = view.getUint32(0),
    height = view.getUint32(4),
    channels = CHANNELS[header[9]];
  if (header[8] !== 8 || !channels || header[12] !== 0)
    throw new ClientError(
      "A PNG of other than 8 bits a sample, or an interlaced one, is not read here: " +
        "save it as JPEG or plain PNG",
    );
  if (width * height > MOST_PIXELS)
    throw new ClientError(`A picture of ${width} x ${height} pixels is too large: scale it down`);
  const lines = await inflated(packed, height * (1 + width * channels));
  const samples = unfiltered(lines, width * channels, height, channels);
  return { data: rgba(samples, header[9], palette, alpha, width * height), width, height };
}

/** @param {Uint8Array} bytes */
function chunksOf(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength),
    packed = [];
  /** @type {Uint8Array | null} */
  let header = null;
  /** @type {Uint8Array[]} */
  let [palette, alpha] = [new Uint8Array(0), new Uint8Array(0)];
  if (!isPng(bytes)) throw new ClientError("The picture is not a PNG file");
  for (let at = 8; at + 12 <= bytes.length;) {
    const length = view.getUint32(at),
      name = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const content = bytes.subarray(at + 8, at + 8 + length);
    if (name === "IHDR") header = content;
    if (name === "PLTE") palette = content;
    if (name === "tRNS") alpha = content;
    if (name === "IDAT") packed.push(content);
    at += 12 + length;
  }
  if (header?.length !== 13) throw new ClientError("The PNG file is damaged");
  return { header, palette, alpha, packed };
}

/**
 * Unpack, and never more than the picture's size asks for.
 * @param {Uint8Array[]} packed
 * @param {number} size bytes that there must be.
 */
async function inflated(packed, size) {
  const stream = new Blob(/** @type {any} */ (packed))
    .stream()
    .pipeThrough(new DecompressionStream("deflate"));
  const reader = stream.getReader(),
    parts = [];
  let bytes = 0;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      bytes += value.length;
      if (bytes > size) break;
      parts.push(value);
    }
  } catch (error) {
    throw new ClientError("The PNG file is cut off or damaged", error);
  }
  if (bytes !== size) {
    await reader.cancel().catch(() => {});
    throw new ClientError("The PNG file is cut off or damaged");
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** Undo the filter of each line (PNG specification, section 9). */
function unfiltered(
  /** @type {Uint8Array} */ lines,
  /** @type {number} */ stride,
  /** @type {number} */ height,
  /** @type {number} */ step,
) {
  const samples = new Uint8Array(stride * height);
  for (let y = 0; y < height; y++) {
    const filter = lines[y * (stride + 1)],
      from = y * (stride + 1) + 1,
      to = y * stride;
    for (let x = 0; x < stride; x++) {
      const left = x >= step ? samples[to + x - step] : 0;
      const above = y > 0 ? samples[to + x - stride] : 0;
      const corner = x >= step && y > 0 ? samples[to + x - stride - step] : 0;
      samples[to + x] = lines[from + x] + predicted(filter, left, above, corner);
    }
  }
  return samples;
}

/** @param {number} filter @param {number} left @param {number} above @param {number} corner */
function predicted(filter, left, above, corner) {
  if (filter === 1) return left;
  if (filter === 2) return above;
  if (filter === 3) return (left + above) >> 1;
  if (filter !== 4) return 0;
  const sum = left + above - corner;
  const [a, b, c] = [Math.abs(sum - left), Math.abs(sum - above), Math.abs(sum - corner)];
  return a <= b && a <= c ? left : b <= c ? above : corner;
}

/**
 * @param {Uint8Array} samples
 * @param {number} type
 * @param {Uint8Array} palette
 * @param {Uint8Array} alpha
 * @param {number} count
 */
function rgba(samples, type, palette, alpha, count) {
  const data = new Uint8ClampedArray(4 * count),
    channels = CHANNELS[type];
  for (let i = 0; i < count; i++) {
    const at = i * channels,
      first = samples[at];
    const colour =
      type === 3
        ? palette.subarray(3 * first, 3 * first + 3)
        : type & 2
          ? samples.subarray(at, at + 3)
          : [first, first, first];
    data.set(colour, 4 * i);
    data[4 * i + 3] =
      type === 3
        ? (alpha[first] ?? 255)
        : type & 4
          ? samples[at + channels - 1]
          : alphaOf(type, alpha, colour);
  }
  return data;
}

/**
 * 0 for the one transparent colour of a file without alpha, else 255; samples have 8 of the 16 bits
 * that it is stated in.
 */
function alphaOf(
  /** @type {number} */ type,
  /** @type {Uint8Array} */ alpha,
  /** @type {ArrayLike<number>} */ colour,
) {
  if (alpha.length < (type === 0 ? 2 : 6)) return 255;
  const same =
    type === 0 ? colour[0] === alpha[1] : [0, 1, 2].every((c) => colour[c] === alpha[2 * c + 1]);
  return same ? 0 : 255;
}
