/**
 * Knows the back end that is a server: OpenAI's chat completions, with what is kept beside them.
 * @module
 */
import { asFile } from "./camera.mjs";
import { messagesOf } from "./conversation.mjs";
import { offered } from "./kept.mjs";

const COMPLETIONS = "v1/chat/completions";

/** Asks the server that serves this page, see back_ends.mjs for what each does. */
export class RemoteBackEnd {
  /** @param {{name: string, [fact: string]: any}} model */
  constructor(model) {
    this.local = false;
    this.model = model;
    this.chips = ["Server"];
    /** @type {string[]} */
    this.notices = [];
    this.facts = { model: model.name, budgets: [1], budget: 1, patches: null };
    this.nested = false; // whether smaller budgets keep a part of what larger ones do
  }

  /** Ask which budgets the model has. */
  async load() {
    const reply = await fetch("v1/models", { headers: keyed() });
    if (!reply.ok) throw await refusal(reply);
    const { data } = await reply.json();
    const entry = data.find((/** @type {any} */ each) => each.id === this.model.name) ?? data[0];
    if (!entry) throw new Error("the server has no model");
    const { budgets, budget, smaller_budgets, tokens_before } = entry.pocketvlm;
    this.facts = {
      model: entry.id,
      budgets: offered(budgets, smaller_budgets),
      budget,
      patches: tokens_before,
    };
    this.nested = smaller_budgets;
  }

  /**
   * Nothing is sent before a question is.
   * @param {Blob | ImageBitmap} picture
   * @returns {Promise<import("./back_ends.mjs").Seen>}
   */
  async see(picture) {
    const bitmap = picture instanceof Blob ? await createImageBitmap(picture) : picture;
    const { width, height } = bitmap;
    const blob = picture instanceof Blob ? picture : await asFile(bitmap);
    bitmap.close();
    return { width, height, tiles: null, handle: await asAddress(blob) };
  }

  /**
   * @param {import("./back_ends.mjs").Ask} request
   * @returns {Promise<import("./back_ends.mjs").Answer>}
   */
  async ask({ turns, question, seen, budget, maxNewTokens, signal, onText }) {
    const begun = performance.now();
    const reply = await fetch(COMPLETIONS, {
      method: "POST",
      headers: { "content-type": "application/json", ...keyed() },
      signal,
      body: JSON.stringify({
        model: this.facts.model,
        messages: messagesOf(
          turns, question, seen && { type: "image_url", image_url: { url: seen.handle } },
        ),
        budget,
        max_tokens: maxNewTokens,
        stream: true,
        stream_options: { include_usage: true },
      }),
    });
    if (!reply.ok || !reply.body) throw await refusal(reply);
    const gathered = new Gathered(begun, onText, this.nested);
    try {
      for await (const event of events(reply.body)) {
        if (event === "[DONE]") break;
        gathered.take(JSON.parse(event));
      }
    } catch (error) {
      if (!signal.aborted) throw error;
      gathered.stopped = true;
    }
    return gathered.answer();
  }

  /** Nothing is held. */
  release() {}

  /** Nothing is open. */
  close() {}
}

/** What the chunks of a stream add up to. */
class Gathered {
  /**
   * @param {number} begun milliseconds
   * @param {(piece: string) => void} onText
   * @param {boolean} nested whether smaller budgets keep a part of what larger ones do
   */
  constructor(begun, onText, nested) {
    this.begun = begun;
    this.onText = onText;
    this.nested = nested;
    this.text = "";
    this.stopped = false;
    this.pieces = 0;
    /** @type {number | null} */
    this.first = null;
    this.last = begun;
    /** @type {any} */
    this.usage = null;
    /** @type {any} */
    this.extra = {};
  }

  /** @param {any} chunk as OpenAI's API streams them */
  take(chunk) {
    if (chunk.error) throw new Error(chunk.error.message);
    if (chunk.usage) this.usage = chunk.usage;
    if (chunk.pocketvlm) this.extra = { ...this.extra, ...chunk.pocketvlm };
    const piece = chunk.choices?.[0]?.delta?.content ?? "";
    if (!piece) return;
    this.pieces += 1;
    this.last = performance.now();
    this.first ??= this.last;
    this.text += piece;
    this.onText(piece);
  }

  /** @returns {import("./back_ends.mjs").Answer} */
  answer() {
    const { extra, usage } = this;
    const { first, pieces } = this;
    /** @type {import("./bars.mjs").Timings} */
    const timings = stagesOf(extra.timings ?? {});
    // From here to the server and back.
    if (first !== null) timings.ttft = first - this.begun;
    if (first !== null && pieces > 1) timings.decode ??= (this.last - first) / (pieces - 1);
    return {
      text: this.text,
      tokenIds: extra.token_ids ?? new Array(pieces).fill(-1), // stopped before it gave them
      timings,
      promptTokens: usage && {
        total: usage.prompt_tokens,
        cached: usage.prompt_tokens_details?.cached_tokens ?? 0,
      },
      visualTokens: extra.visual_tokens ?? null,
      stopped: this.stopped,
      tiles: tilesOf(extra.kept, this.nested ? undefined : extra.budget),
    };
  }
}

/**
 * The server's key, where the page was opened with one: `#key=...`, which browsers keep to
 * themselves.
 * @returns {Record<string, string>}
 */
function keyed() {
  const key = new URLSearchParams(location.hash.slice(1)).get("key");
  return key ? { authorization: `Bearer ${key}` } : {};
}

/**
 * The stages that the server measured.
 * @param {Record<string, number>} measured milliseconds
 * @returns {import("./bars.mjs").Timings}
 */
function stagesOf({ preprocess, vision, embed, prefill, decode }) {
  const given = Object.entries({ preprocess, vision, embed, prefill, decode });
  return Object.fromEntries(given.filter(([, spent]) => spent !== undefined && spent > 0));
}

/**
 * Patches that the server kept of the first picture of a request, which it lists best first.
 * @param {any} kept of each picture
 * @param {number | undefined} only the budget, where smaller ones keep others
 * @returns {import("./kept.mjs").TilePatches[] | undefined} nothing where it says nothing of them
 */
function tilesOf(kept, only) {
  return kept?.[0]?.tiles?.map((/** @type {any} */ { whole, patches }) => ({
    whole,
    ranked: patches.map((/** @type {number[]} */ [x, y, width, height]) => ({
      x, y, width, height,
    })),
    only,
  }));
}

/**
 * The data of a stream of server-sent events, one after another.
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<string>}
 */
export async function* events(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let waiting = "";
  for (;;) {
    const { done, value } = await reader.read();
    waiting += done ? decoder.decode() : decoder.decode(value, { stream: true });
    const parts = waiting.split(/\r\n\r\n|\n\n|\r\r/);
    waiting = done ? "" : (parts.pop() ?? "");
    for (const part of parts) {
      const lines = part.split(/\r\n|\n|\r/).filter((line) => line.startsWith("data:"));
      if (lines.length) yield lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
    }
    if (done) return;
  }
}

/**
 * A picture as a data: address.
 * @param {Blob} blob
 * @returns {Promise<string>}
 */
function asAddress(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

/**
 * The error of a reply, with the server's own words where it has some.
 * @param {Response} reply
 * @returns {Promise<Error>}
 */
async function refusal(reply) {
  try {
    const { error } = await reply.json();
    return new Error(error.message);
  } catch {
    return new Error(`the server answered ${reply.status} ${reply.statusText}`.trim());
  }
}
