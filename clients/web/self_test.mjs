// Knows whether a device computes an artifact as it should: its self-test, computed here and
// compared within its bounds.
// The file is described by selftest.schema.json of the package pocketvlm, and judged as that does.
import { assemble } from "./assembled.mjs";
import { Sequence } from "./decoder.mjs";
import { ClientError, reasonOf } from "./errors.mjs";
import { decodePng } from "./png.mjs";
import { highest } from "./sampling.mjs";
import { Seen, encodeTiles } from "./seen.mjs";

const SMALL = 1e-6; // a difference of scores that are all 0

/**
 * @typedef {object} Figure
 * @property {string} title
 * @property {number} value
 * @property {number} bound
 * @property {boolean} atLeast whether the bound is the least, else the most.
 */

/**
 * Compute the self-test with opened graphs.
 * @param {any} ort
 * @param {any} facts
 * @param {any} layout
 * @param {{vision: any, table: any, decoder: any}} sessions
 * @param {import("./facts.mjs").Choice} choice
 * @param {import("./downloads.mjs").Files} files
 * @param {Record<string, Float32Array>} constants
 * @returns {Promise<Figure[]>} those that are beyond their bounds; none where the device is right.
 * @throws {ClientError} the self-test is damaged, or says nothing of these graphs.
 */
export async function failedFigures(ort, facts, layout, sessions, choice, files, constants) {
  const expected = await readExpected(facts, files);
  const { budget, visionPrecision, decoderPrecision } = choice;
  const vision = expected.vision.find((/** @type {any} */ row) => row.budget === budget);
  const reader = expected.decoder.bounds.find(
    (/** @type {any} */ row) =>
      row.engine === "onnx" && row.precision === decoderPrecision && row.vision === visionPrecision,
  );
  const bounds = vision?.bounds[visionPrecision];
  if (!bounds) throw damaged(`it says nothing of the vision graph k=${budget} ${visionPrecision}`);
  const cut = await testTiles(facts, expected, files);
  const tiles = await encodeTiles(ort, sessions.vision, facts, layout, cut);
  const figures = judgeVision(
    facts,
    layout
      .batches(cut.grid)
      .map((/** @type {number[]} */ batch) => batch.map((tile) => tiles[tile])),
    vision.batches,
    bounds,
  );
  if (!reader) throw damaged(`it says nothing of ${decoderPrecision} behind ${visionPrecision}`);
  // Decoders are tested behind the default budget, which a larger graph serves too.
  const usual = facts.vision.default_budget;
  if (budget === usual || (facts.nested && budget > usual)) {
    const seen = new Seen(facts, layout, null, { grid: cut.grid, rectangles: [] }, tiles, budget);
    const filled = seen.filled(usual, constants);
    const logits = await readAnswer(ort, facts, sessions, expected, filled);
    figures.push(...judgeAnswer(logits, expected.decoder, reader.bounds));
  }
  return figures.filter(
    ({ value, bound, atLeast }) => !(atLeast ? value >= bound : value <= bound),
  );
}

/** @param {any} facts @param {import("./downloads.mjs").Files} files */
async function readExpected(facts, files) {
  let expected;
  try {
    expected = JSON.parse(new TextDecoder().decode(await files.bytes(facts.self_test.file)));
  } catch (error) {
    throw damaged(reasonOf(error), error);
  }
  const parts = [
    expected?.vision,
    expected?.prompt_ids,
    expected?.decoder?.bounds,
    expected?.decoder?.token_ids,
    expected?.decoder?.columns,
  ];
  if (expected?.version !== 1 || !parts.every(Array.isArray))
    throw damaged("it is of another form");
  return expected;
}

/** The tiles of the self-test's picture: one below the other in each file, not to be resized. */
async function testTiles(
  /** @type {any} */ facts,
  /** @type {any} */ expected,
  /** @type {import("./downloads.mjs").Files} */ files,
) {
  const {
    rows,
    columns,
    whole = null,
    size = null,
    tokens = null,
    whole_tokens = null,
  } = expected.grid;
  const counts = whole_tokens ? [rows * columns, 1] : [rows * columns + (whole ? 1 : 0)];
  if (whole_tokens && whole === "first") counts.reverse();
  const tiles = [];
  for (const [number, file] of facts.self_test.pictures.entries()) {
    const { data, width, height } = await decodePng(await files.bytes(file));
    const tall = height / counts[number];
    if (!Number.isInteger(tall))
      throw damaged(`${file} has ${height} rows for ${counts[number]} tiles`);
    for (let i = 0; i < counts[number]; i++)
      tiles.push({
        data: data.subarray(4 * width * tall * i, 4 * width * tall * (i + 1)),
        width,
        height: tall,
      });
  }
  const [height, width] = size ?? [tiles[0].height * rows, tiles[0].width * columns];
  const grid = {
    width,
    height,
    rows,
    columns,
    whole,
    tokens: tokenGrid(tokens),
    wholeTokens: tokenGrid(whole_tokens),
    tiles: tiles.length,
  };
  return { tiles, grid };
}

/** @param {number[] | null} pair */
function tokenGrid(pair) {
  return pair && { rows: pair[0], columns: pair[1] };
}

/** Logits after the prompt and after each token of the expected answer but the last. */
async function readAnswer(
  /** @type {any} */ ort,
  /** @type {any} */ facts,
  /** @type {any} */ sessions,
  /** @type {any} */ expected,
  /** @type {any} */ filled,
) {
  const sequence = new Sequence(ort, facts, sessions);
  try {
    const rows = [(await sequence.prefill(assemble(facts, expected.prompt_ids, [filled]))).logits];
    for (const token of expected.decoder.token_ids.slice(0, -1))
      rows.push(await sequence.decode(token));
    return rows;
  } finally {
    sequence.reset();
  }
}

/**
 * The kept set, and the features and scores of sampled tokens that both kept.
 * @param {any} facts
 * @param {import("./seen.mjs").Tile[][]} batches
 * @param {any[]} expected
 * @param {any} bounds
 * @returns {Figure[]}
 */
export function judgeVision(facts, batches, expected, bounds) {
  let shared = 0,
    total = 0;
  /** @type {{name: string, ours: number[], theirs: number[], largest: number}[]} */
  const pairs = [];
  expected.forEach((batch, number) => {
    batch.kept_indices.forEach((/** @type {number[]} */ kept, /** @type {number} */ tile) => {
      const ours = new Set(batches[number][tile].kept);
      shared += kept.filter((index) => ours.has(index)).length;
      total += Math.max(kept.length, ours.size);
    });
    for (const [name, { values, largest }] of Object.entries(
      /** @type {Record<string, any>} */ (batch.samples),
    ))
      pairs.push({ name, largest, ...sampled(facts, batches[number], batch, name, values) });
  });
  const features = pairs.filter(({ name }) => name !== "kept_scores");
  const figures = [
    figure("kept", shared / total, bounds.kept_overlap ?? 0),
    figure(
      "features",
      cosine(
        features.flatMap(({ ours }) => ours),
        features.flatMap(({ theirs }) => theirs),
      ),
      bounds.cosine,
    ),
  ];
  if (bounds.difference === undefined || bounds.difference === null) return figures;
  const differences = (/** @type {boolean} */ scores) =>
    pairs
      .filter(({ name }) => (name === "kept_scores") === scores)
      .map(({ ours, theirs, largest }) =>
        relative(ours, theirs, scores ? largest : Math.max(1, largest)),
      );
  return [
    ...figures,
    figure("features differ", Math.max(...differences(false)), bounds.difference, false),
    figure("scores differ", Math.max(...differences(true)), bounds.difference, false),
  ];
}

/** Of the sampled tokens that were kept here too: what was computed, and what is expected. */
function sampled(
  /** @type {any} */ facts,
  /** @type {any[]} */ tiles,
  /** @type {any} */ batch,
  /** @type {string} */ name,
  /** @type {number[][]} */ values,
) {
  /** @type {number[]} */
  const ours = [];
  /** @type {number[]} */
  const theirs = [];
  batch.rows.forEach((/** @type {[number, number]} */ [tile, index], /** @type {number} */ row) => {
    const { features, scores, extras, kept } = tiles[tile],
      at = kept.indexOf(index);
    if (at < 0) return;
    theirs.push(...values[row]);
    if (name === "kept_scores") return void ours.push(scores[at]);
    const rows = name === "image_features" ? features : extras[name];
    if (!rows) throw damaged(`it samples ${name}, which the vision graph does not give`);
    for (const column of batch.columns) ours.push(rows[at * facts.hidden + column]);
  });
  return { ours, theirs };
}

/**
 * The logits, and where a difference is bounded the tokens: equal, but for those that the reference
 * prefers by less
 * than what two logits may differ.
 * @param {Float32Array[]} logits of each step, (vocab,)
 * @param {any} expected
 * @param {any} bounds
 * @returns {Figure[]}
 */
export function judgeAnswer(logits, expected, bounds) {
  const theirs = expected.logits.values,
    columns = expected.columns;
  const ours = logits.map((row) => columns.map((/** @type {number} */ column) => row[column]));
  const figures = [
    figure("logits", cosine(ours.flatMap(centred), theirs.flatMap(centred)), bounds.cosine),
  ];
  if (bounds.difference === undefined || bounds.difference === null) return figures;
  const largest = Math.max(1, expected.logits.largest),
    near = 2 * bounds.difference * largest;
  const equal = logits.filter((row, step) => {
    const token = highest(row),
      at = columns.indexOf(token),
      values = theirs[step];
    return (
      token === expected.token_ids[step] || (at >= 0 && Math.max(...values) - values[at] <= near)
    );
  });
  return [
    ...figures,
    figure(
      "logits differ",
      relative(ours.flat(), theirs.flat(), largest),
      bounds.difference,
      false,
    ),
    figure("tokens", equal.length, expected.token_ids.length),
  ];
}

/**
 * @param {string} title
 * @param {number} value
 * @param {number} bound
 * @param {boolean} [atLeast]
 * @returns {Figure}
 */
function figure(title, value, bound, atLeast = true) {
  return { title, value, bound, atLeast };
}

/** @param {number[]} row */
function centred(row) {
  const mean = row.reduce((sum, value) => sum + value, 0) / row.length;
  return row.map((value) => value - mean);
}

/**
 * 0 of nothing; nothing but zeros is equal to nothing but zeros.
 * @param {number[]} a
 * @param {number[]} b
 */
function cosine(a, b) {
  let product = 0,
    squaresA = 0,
    squaresB = 0;
  for (let i = 0; i < a.length; i++) {
    product += a[i] * b[i];
    squaresA += a[i] * a[i];
    squaresB += b[i] * b[i];
  }
  const length = Math.sqrt(squaresA) * Math.sqrt(squaresB);
  if (a.length === 0) return 0;
  return length === 0 ? Number(squaresA === 0 && squaresB === 0) : product / length;
}

/**
 * The largest difference as a part of `scale`; NaN of nothing, which is beyond every bound.
 * @param {number[]} ours
 * @param {number[]} theirs
 * @param {number} scale
 */
function relative(ours, theirs, scale) {
  let largest = ours.length ? 0 : NaN;
  for (let i = 0; i < ours.length; i++) {
    const difference = Math.abs(ours[i] - theirs[i]);
    if (!(difference <= largest)) largest = difference;
  }
  return largest / Math.max(scale, SMALL);
}

/** @param {string} reason @param {unknown} [cause] */
function damaged(reason, cause) {
  return new ClientError(`The self-test is damaged (${reason}): export the model again`, cause);
}
