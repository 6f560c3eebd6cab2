// Knows how questions and conversations become token ids: the chat template, then the tokenizer,
// both the checkpoint's own.
import { ClientError, reasonOf } from "./errors.mjs";

/** @typedef {{type: "image"} | {type: "text", text: string}} Part */
/** @typedef {{role: "system" | "user" | "assistant", content: string | Part[]}} Message */
/**
 * @typedef {{Tokenizer: any, Template: any}} TextLibraries of @huggingface/tokenizers and
 *   @huggingface/jinja.
 */

const PLACEHOLDER = "<image>";
const MOST_SPACES = 4096; // in a row: tokenizers read more in quadratic time

/** @returns {Promise<TextLibraries>} the libraries by their names in npm. */
export async function textLibraries() {
  const [{ Tokenizer }, { Template }] = await Promise.all([
    import("@huggingface/tokenizers"),
    import("@huggingface/jinja"),
  ]);
  return { Tokenizer, Template };
}

/** Chat template and tokenizer of an artifact. */
export class Prompter {
  /**
   * @param {any} facts
   * @param {TextLibraries} libraries
   * @param {{tokenizer: any, config: any, template: string}} content of the artifact's files.
   * @throws {ClientError} files that the libraries do not read.
   */
  constructor(facts, { Tokenizer, Template }, { tokenizer, config, template }) {
    this.facts = facts;
    this.image = facts.tokenizer.image_token;
    this.placed = facts.picture_text?.placeholder ?? this.image;
    try {
      // A prompt is never cut or padded, whatever the file says.
      this.tokenizer = new Tokenizer({ ...tokenizer, truncation: null, padding: null }, config);
      this.template = new Template(template);
    } catch (error) {
      throw new ClientError(
        `The tokenizer or the chat template is not read here (${reasonOf(error)})`,
        error,
      );
    }
    const [id] = this.tokenizer.encode(this.image, { add_special_tokens: false }).ids;
    if (id !== facts.image_token_id)
      throw new ClientError(
        `The tokenizer gives ${this.image} the id ${id} instead of ${facts.image_token_id}: ` +
          "export the artifact again",
      );
  }

  /**
   * @param {readonly Message[]} messages the last is the user's.
   * @returns {{ids: number[], pictures: number}} one image token for each picture, in order.
   * @throws {ClientError}
   */
  encode(messages) {
    const read = messages.map((message, number) => this.message(message, number + 1));
    if (read.at(-1)?.role !== "user") throw new ClientError("The last message is not the user's");
    return this.encoded(
      this.rendered(read),
      read.flatMap(({ content }) => content).filter(({ type }) => type === "image").length,
    );
  }

  /**
   * One question. `<image>` in it places a picture; without any, pictures come first.
   * @param {string} prompt
   * @param {number} pictures
   * @throws {ClientError}
   */
  question(prompt, pictures) {
    const places = prompt.split(PLACEHOLDER).length - 1;
    if (places !== 0 && places !== pictures)
      throw new ClientError(`The prompt has ${places} ${PLACEHOLDER} for ${pictures} pictures`);
    /** @type {Part[]} */
    const first = places ? [] : Array.from({ length: pictures }, () => ({ type: "image" }));
    return this.encoded(
      this.rendered([{ role: "user", content: [...first, ...this.parts(prompt)] }]),
      pictures,
    );
  }

  /**
   * A prompt as parts; where the template would move a picture, its place is written as text.
   * @param {string} prompt
   * @returns {Part[]}
   */
  parts(prompt) {
    if (!prompt.includes(PLACEHOLDER)) return [{ type: "text", text: prompt }];
    if (!this.walksParts())
      return [{ type: "text", text: prompt.replaceAll(PLACEHOLDER, this.placed) }];
    /** @type {Part[]} */
    const parts = [];
    prompt.split(PLACEHOLDER).forEach((text, number) => {
      if (number) parts.push({ type: "image" });
      if (text) parts.push({ type: "text", text });
    });
    return parts;
  }

  /**
   * Whether the template writes the parts of a message in their order: some put all pictures first.
   */
  walksParts() {
    /** @type {Part[]} */
    const content = [
      { type: "text", text: "alpha" },
      { type: "image" },
      { type: "text", text: "omega" },
    ];
    try {
      const text = this.template.render(this.variables([{ role: "user", content }]));
      const between = (text.split("alpha")[1] ?? "").split("omega")[0];
      return between.split(this.placed).length === 2 && text.split(this.placed).length === 2;
    } catch {
      return false;
    }
  }

  /**
   * A message as chat templates read it. A place of a picture that is spelt out would be one that
   * nobody gave: it is
   * refused, and taken out of answers.
   * @param {Message} message
   * @param {number} number
   * @returns {{role: string, content: Part[]}}
   */
  message({ role, content }, number) {
    if (!["system", "user", "assistant"].includes(role))
      throw new ClientError(`Message ${number} has the role ${role}`);
    /** @type {Part[]} */
    const parts = typeof content === "string" ? [{ type: "text", text: content }] : content;
    const read = parts.map((part) => {
      if (part.type === "image") return { type: "image" };
      if (part.type !== "text" || typeof part.text !== "string")
        throw new ClientError(
          `Message ${number} has a part of the type ${part.type}: give image or text`,
        );
      if (role === "assistant") return { type: "text", text: this.withoutPlaces(part.text).trim() };
      const spelt = [this.image, this.placed, PLACEHOLDER].find((place) =>
        part.text.includes(place),
      );
      if (spelt)
        throw new ClientError(
          `Message ${number} has ${spelt} in its text: give the picture as a part of its own`,
        );
      return { type: "text", text: part.text };
    });
    return { role, content: /** @type {Part[]} */ (read) };
  }

  /** @param {string} text */
  withoutPlaces(text) {
    const places = [this.image, this.placed].filter((place, i, all) => all.indexOf(place) === i);
    while (places.some((place) => text.includes(place)))
      for (const place of places) text = text.replaceAll(place, "");
    return text;
  }

  /** @param {{role: string, content: Part[]}[]} messages */
  rendered(messages) {
    let text;
    try {
      text = this.template.render(this.variables(messages));
    } catch (error) {
      throw new ClientError(
        `The chat template refuses this conversation: ${reasonOf(error)}`,
        error,
      );
    }
    const written = this.facts.picture_text;
    return written ? text.replaceAll(written.placeholder, written.text) : text;
  }

  /** @param {{role: string, content: Part[]}[]} messages */
  variables(messages) {
    return {
      ...this.facts.tokenizer.special_tokens,
      messages,
      tools: null,
      documents: null,
      add_generation_prompt: true,
    };
  }

  /** @param {string} text @param {number} pictures */
  encoded(text, pictures) {
    if (new RegExp(`\\s{${MOST_SPACES + 1}}`).test(text))
      throw new ClientError("The prompt has thousands of spaces or line breaks in a row");
    const bos = this.facts.tokenizer.special_tokens.bos_token;
    // No second one where the template has written it already.
    /** @type {number[]} */
    const ids = this.tokenizer.encode(text, {
      add_special_tokens: !(bos && text.startsWith(bos)),
    }).ids;
    const places = ids.filter((id) => id === this.facts.image_token_id).length;
    if (places !== pictures)
      throw new ClientError(
        `The prompt holds ${places} places of pictures for ${pictures} given: ` +
          "the text spells one out, or the template takes none here",
      );
    return { ids, pictures };
  }
}
