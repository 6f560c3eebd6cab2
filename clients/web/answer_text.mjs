// Knows how tokens become text piece by piece, never half a character nor a text that ends the
// answer.

const UNKNOWN = "\ufffd"; // what stands for bytes that are not a character yet

/**
 * Lets text through up to the first stop text, which is left out. What may be the beginning of one
 * is held back. The
 * first is the one that is complete first, of those complete at once the longest.
 */
export class StopTexts {
  /** @param {readonly string[]} texts */
  constructor(texts = []) {
    this.texts = texts.filter(Boolean);
    this.held = "";
    this.stopped = false;
  }

  /** What may be given out after this piece. @param {string} piece */
  push(piece) {
    if (this.stopped) return "";
    const text = this.held + piece,
      start = this.first(text);
    this.stopped = start !== null;
    const end = start ?? text.length - this.beginning(text);
    this.held = this.stopped ? "" : text.slice(end);
    return text.slice(0, end);
  }

  /** What was held back, as nothing follows. */
  finish() {
    const held = this.held;
    this.held = "";
    return held;
  }

  /** A whole text up to the first stop text. @param {string} text */
  cut(text) {
    return text.slice(0, this.first(text) ?? text.length);
  }

  /** @param {string} text @returns {number | null} */
  first(text) {
    let end = Infinity,
      start = null;
    for (const stop of this.texts) {
      const at = text.indexOf(stop);
      if (at < 0) continue;
      const after = at + stop.length;
      if (after < end || (after === end && start !== null && at < start))
        [end, start] = [after, at];
    }
    return start;
  }

  /** Length of the longest end of a text that a stop text begins with. @param {string} text */
  beginning(text) {
    let longest = 0;
    for (const stop of this.texts)
      for (let length = Math.min(stop.length - 1, text.length); length > longest; length--)
        if (text.endsWith(stop.slice(0, length))) longest = length;
    return longest;
  }
}

/**
 * Turns the tokens of one answer into pieces whose sum is the text of all of them. A token costs
 * the same however many came before.
 */
export class Detokenizer {
  /**
   * @param {any} tokenizer of @huggingface/tokenizers.
   * @param {readonly string[]} stop texts that end the answer.
   */
  constructor(tokenizer, stop = []) {
    this.tokenizer = tokenizer;
    this.stop = new StopTexts(stop);
    /** @type {number[]} */
    this.ids = [];
    this.from = 0; // where the tokens begin that are decoded together: their first ones are known
    this.read = 0; // tokens whose text was given out
    this.given = "";
  }

  get stopped() {
    return this.stop.stopped;
  }

  /** The text that is certain after this token. @param {number} token */
  push(token) {
    // Ids beyond the vocabulary, of a padded embedding, are not text.
    if (this.tokenizer.id_to_token(token) === undefined) return "";
    this.ids.push(token);
    const before = this.decoded(this.ids.slice(this.from, this.read));
    const after = this.decoded(this.ids.slice(this.from));
    if (after.length <= before.length || after.endsWith(UNKNOWN) || !after.startsWith(before))
      return "";
    [this.from, this.read] = [this.read, this.ids.length];
    return this.out(after.slice(before.length));
  }

  /** What was held back, incomplete characters as U+FFFD. */
  finish() {
    const whole = this.decoded(this.ids);
    const rest = whole.startsWith(this.given) ? this.out(whole.slice(this.given.length)) : "";
    return rest + this.stop.finish();
  }

  /** All tokens decoded at once, up to the first stop text. */
  get text() {
    return this.stop.cut(this.decoded(this.ids));
  }

  /** @param {string} piece */
  out(piece) {
    this.given += piece;
    return this.stop.push(piece);
  }

  /** @param {number[]} ids @returns {string} */
  decoded(ids) {
    return ids.length
      ? this.tokenizer.decode(ids, {
          skip_special_tokens: true,
          clean_up_tokenization_spaces: false,
        })
      : "";
  }
}
