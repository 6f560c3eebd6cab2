// Knows using.json: which artifacts are served here, and which graph serves a budget and a
// precision.
import { ClientError } from "./errors.mjs";

/** The format of using.json that is read here. */
export const FORMAT = 1;

// What an artifact may ask of a client, see using.schema.json: these are served, ...
const SERVED = new Set([
  "scored_rows",
  "picture_ids",
  "prompt_in_one_run",
  "positions",
  "extras",
  "convolutions",
  "constants",
]);
// ... and of these it is known what answers instead.
const INSTEAD = {
  "llama.cpp": "export it with --decoder onnx, or answer with pocketvlm's runtime",
  clips: "answer with pocketvlm's runtime",
  selectors: "export it with a method that does not read the question",
  stages: "export it without decoder stages",
  visual_scores: "answer with pocketvlm's runtime",
};

/**
 * Refuse an artifact that this client does not serve.
 * @param {any} facts the content of using.json.
 * @throws {ClientError}
 */
export function checkServed(facts) {
  if (facts === null || typeof facts !== "object" || facts.format !== FORMAT)
    throw new ClientError(
      `using.json has the format ${facts?.format}, this client reads ${FORMAT}: ` +
        "export the model again, or update the client",
    );
  for (const [need, words] of Object.entries(facts.needs)) {
    if (SERVED.has(need)) continue;
    const advice = INSTEAD[need] ?? "update the client, or answer with pocketvlm's runtime";
    throw new ClientError(`This artifact is not served here: ${words}. ${sentence(advice)}`);
  }
}

/**
 * The exported budget whose graph serves another: an equal one, or where smaller ones can be cut
 * out the next larger.
 * @param {any} facts
 * @param {number | "largest"} [budget] tokens of a tile; the artifact's own where it is left out.
 *   largest: the one that serves all others, else the artifact's own.
 * @returns {number}
 * @throws {ClientError} none serves it.
 */
export function servingBudget(facts, budget = facts.vision.default_budget) {
  const exported = [...facts.vision.budgets].sort((a, b) => a - b);
  if (budget === "largest") return facts.nested ? exported.at(-1) : facts.vision.default_budget;
  if (exported.includes(budget)) return budget;
  const larger = exported.find((k) => k > budget);
  if (facts.nested && Number.isInteger(budget) && budget >= 1 && larger) return larger;
  const served = facts.nested ? `1 to ${exported.at(-1)}` : exported.join(" or ");
  throw new ClientError(
    `Of the ${facts.patches} tokens of a tile this artifact serves ${served}, not ${budget}`,
  );
}

/**
 * @typedef {object} Choice which graphs answer.
 * @property {number} budget the exported one.
 * @property {string} visionPrecision
 * @property {string} decoderPrecision
 * @property {string} vision file
 * @property {string} decoder file
 * @property {string} table file
 */

/**
 * The graphs for a budget and precisions.
 * @param {any} facts
 * @param {{budget?: number | "largest", visionPrecision?: string, decoderPrecision?: string}} wanted
 * @returns {Choice}
 * @throws {ClientError} the artifact has no such graph.
 */
export function chooseGraphs(facts, wanted) {
  const budget = servingBudget(facts, wanted.budget);
  const { vision, decoder } = facts;
  const visionPrecision = wanted.visionPrecision ?? vision.default_precision;
  const decoderPrecision = wanted.decoderPrecision ?? decoder.default_precision;
  return {
    budget,
    visionPrecision,
    decoderPrecision,
    vision: pick(vision.graphs[budget], visionPrecision, "vision graph"),
    decoder: pick(decoder.graphs, decoderPrecision, "decoder"),
    table: pick(decoder.tables, decoderPrecision, "embedding table"),
  };
}

/**
 * Every file that graphs need, the files of their weights among them.
 * @param {any} facts
 * @param {Choice} choice
 * @returns {string[]}
 */
export function filesOf(facts, choice) {
  const graphs = [choice.vision, choice.table, choice.decoder];
  return [...new Set(graphs.flatMap((graph) => [graph, ...(facts.weights[graph] ?? [])]))];
}

/** @param {Record<string, string>} files @param {string} precision @param {string} name */
function pick(files, precision, name) {
  if (Object.hasOwn(files, precision)) return files[precision];
  throw new ClientError(
    `This artifact has no ${name} in ${precision}; it has ${Object.keys(files).join(", ")}`,
  );
}

/** @param {string} text */
function sentence(text) {
  return `${text[0].toUpperCase()}${text.slice(1)}.`;
}
