// Knows how the parts of a model are opened, and that its graphs are trusted once they have passed
// the self-test.
import { cacheNames } from "./decoder.mjs";
import { ClientError, reasonOf } from "./errors.mjs";
import { Prompter, textLibraries } from "./prompt.mjs";
import { failedFigures, testsDecoder } from "./self_test.mjs";
import { openSession } from "./sessions.mjs";

/** @typedef {{vision: any, table: any, decoder: any}} Sessions */

/**
 * @typedef {object} Opened what a model is opened from.
 * @property {any} ort
 * @property {import("./downloads.mjs").Files} files
 * @property {any} facts
 * @property {any} layout
 * @property {import("./facts.mjs").Choice} choice
 * @property {Record<string, Float32Array>} constants
 * @property {boolean} [selfTest]
 */

/**
 * Open the graphs, and run the self-test with them where it has not passed here before.
 * @param {Opened} opened
 * @param {import("./sessions.mjs").Provider} provider
 * @returns {Promise<Sessions>}
 * @throws {ClientError} a graph that is not opened, a device that computes something else.
 */
export async function openTrusted(opened, provider) {
  const { ort, files, facts, choice } = opened;
  if (provider === "webgpu" && !testsDecoder(facts, choice.budget))
    throw new ClientError(
      `the self-test says nothing of a decoder behind ${choice.budget} tokens: ` +
        `load ${facts.vision.default_budget}, and ask for fewer`,
    );
  const kept = provider === "webgpu" ? cacheNames(facts).map(({ present }) => present) : [];
  /** @type {any[]} */
  const sessions = [];
  try {
    for (const graph of [choice.vision, choice.table, choice.decoder]) {
      const onDevice = graph === choice.decoder ? kept : [];
      sessions.push(await openSession(ort, files, facts, graph, provider, onDevice));
    }
    const [vision, table, decoder] = sessions;
    // Node's CPU provider is what the artifact was made with.
    if (opened.selfTest ?? provider !== "cpu") {
      await ensureTrusted(opened, { vision, table, decoder }, provider);
    }
    return { vision, table, decoder };
  } catch (error) {
    await Promise.all(sessions.map((session) => session.release?.()));
    throw error;
  }
}

/** @param {Opened} opened @param {Sessions} sessions @param {string} provider */
async function ensureTrusted(opened, sessions, provider) {
  const { ort, files, facts, layout, choice, constants } = opened;
  if (!facts.self_test) {
    if (provider === "webgpu") {
      throw new ClientError("this artifact has no self-test to check it by, export it again");
    }
    const notice = "This artifact has no self-test: nothing says whether this device is right.";
    files.notices.push(notice);
    return;
  }
  const version = ort.env?.versions?.web ?? ort.env?.versions?.node;
  const device = [provider, version, globalThis.navigator?.userAgent ?? ""];
  const key = JSON.stringify([...device, choice.vision, choice.decoder, choice.table]);
  if (await files.remembers(key)) return;
  const failed = await failedFigures(ort, facts, layout, sessions, choice, files, constants);
  if (failed.length) {
    const words = failed.map(inWords).join("; ");
    throw new ClientError(
      `${provider} computes this model wrong on this device, by its self-test (${words})`,
    );
  }
  await files.remember(key);
}

/** @param {import("./self_test.mjs").Figure} figure */
function inWords({ title, value, bound, atLeast }) {
  const limit = `${atLeast ? "at least" : "at most"} ${bound.toPrecision(3)}`;
  return `${title} ${value.toPrecision(3)}, ${limit}`;
}

/**
 * Chat template and tokenizer of an artifact.
 * @param {any} facts
 * @param {import("./downloads.mjs").Files} files
 * @param {import("./prompt.mjs").TextLibraries} [libraries]
 * @returns {Promise<Prompter>}
 */
export async function openPrompter(facts, files, libraries) {
  const { file, config } = facts.tokenizer;
  const [tokenizer, settings, template] = await Promise.all([
    json(files, file),
    config ? json(files, config) : {},
    text(files, facts.chat_template),
  ]);
  return new Prompter(facts, libraries ?? (await textLibraries()), {
    tokenizer,
    config: settings,
    template,
  });
}

/**
 * What a layout puts between features, by name.
 * @param {any} facts
 * @param {import("./downloads.mjs").Files} files
 * @returns {Promise<Record<string, Float32Array>>}
 */
export async function readConstants(facts, files) {
  const read = Object.entries(facts.constants).map(async ([name, { file }]) => {
    const bytes = await files.bytes(file);
    // Every browser runs on little-endian machines.
    return [name, new Float32Array(bytes.slice().buffer)];
  });
  return Object.fromEntries(await Promise.all(read));
}

/** @param {import("./downloads.mjs").Files} files @param {string} file */
async function text(files, file) {
  return new TextDecoder().decode(await files.bytes(file));
}

/** @param {import("./downloads.mjs").Files} files @param {string} file */
async function json(files, file) {
  try {
    return JSON.parse(await text(files, file));
  } catch (error) {
    if (error instanceof ClientError) throw error;
    throw new ClientError(`${file} is not JSON (${reasonOf(error)}): copy the folder again`, error);
  }
}
