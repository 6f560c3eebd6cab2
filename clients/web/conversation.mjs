/**
 * Knows the conversation: what was asked and answered, and how it is shown.
 * @module
 */
import { duration } from "./bars.mjs";

/** @typedef {{question: string, answer: string}} Turn */

/** The turns about one picture after another. */
export class Conversation {
  /** @param {HTMLElement} list that turns are shown in */
  constructor(list) {
    this.list = list;
    /** @type {Turn[]} about the picture that is shown */
    this.turns = [];
    this.begun = false;
  }

  /** Begin anew, as with another picture; what was said stays on the page. */
  begin() {
    this.turns = [];
    this.begun = false;
  }

  /** Begin anew with an empty page. */
  clear() {
    this.begin();
    this.list.replaceChildren();
  }

  /**
   * Show a question, and the place that its answer comes to.
   * @param {string} question
   * @param {HTMLImageElement | null} picture shown beside the first question about it
   * @returns {AnswerView}
   */
  ask(question, picture) {
    const mine = document.createElement("li");
    mine.className = "mine";
    if (picture && !this.begun) mine.append(picture);
    this.begun = true;
    const words = document.createElement("p");
    words.textContent = question;
    mine.append(words);
    const theirs = document.createElement("li");
    theirs.className = "theirs";
    theirs.setAttribute("aria-busy", "true");
    this.list.append(mine, theirs);
    return new AnswerView(theirs, this.list);
  }
}

/** One answer while it comes. */
export class AnswerView {
  /**
   * @param {HTMLElement} item
   * @param {HTMLElement} list that scrolls
   */
  constructor(item, list) {
    this.item = item;
    this.list = list;
    this.words = document.createElement("p");
    item.append(this.words);
    this.text = "";
    this.scroll();
  }

  /** @param {string} piece of text, as it comes */
  append(piece) {
    this.text += piece;
    this.words.textContent = this.text.trimStart();
    this.scroll();
  }

  /**
   * The answer is whole.
   * @param {string} figures one line about it, or none
   * @param {string} [wordless] what is shown where it has no words
   */
  finish(figures, wordless = "(The model gave no words.)") {
    this.item.setAttribute("aria-busy", "false");
    if (!this.text.trim()) this.words.textContent = wordless;
    if (!figures) return;
    const line = document.createElement("p");
    line.className = "quiet figures";
    line.textContent = figures;
    this.item.append(line);
    this.scroll();
  }

  /** @param {string} reason why there is no answer, in plain words */
  fail(reason) {
    this.item.setAttribute("aria-busy", "false");
    const line = document.createElement("p");
    line.className = "failed";
    line.textContent = reason;
    if (this.text) this.item.append(line);
    else this.words.replaceWith(line);
    this.scroll();
  }

  /** Keep the newest line in sight. */
  scroll() {
    const log = this.list.parentElement;
    if (log) log.scrollTop = log.scrollHeight;
  }
}

/**
 * One line on an answer.
 * @param {import("./back_ends.mjs").Answer} answer
 * @returns {string}
 */
export function figuresOf({ tokenIds, promptTokens, visualTokens, timings, stopped }) {
  const cached = promptTokens?.cached ? ` (${promptTokens.cached} from before)` : "";
  return [
    visualTokens === null ? "" : `${visualTokens} visual tokens`,
    promptTokens ? `prompt of ${promptTokens.total}${cached}` : "",
    `${tokenIds.length} new`,
    timings.ttft === undefined ? "" : `first after ${duration(timings.ttft)}`,
    stopped ? "stopped" : "",
  ].filter(Boolean).join(" · ");
}

/**
 * A conversation as messages: the picture goes before the first question.
 * @param {Turn[]} turns before the question
 * @param {string} question
 * @param {{type: string, [key: string]: any} | null} picture the part of a message that it is
 * @returns {any[]}
 */
export function messagesOf(turns, question, picture) {
  /** @type {any[]} */
  const messages = turns.flatMap((turn) => [
    { role: "user", content: [{ type: "text", text: turn.question }] },
    { role: "assistant", content: turn.answer },
  ]);
  messages.push({ role: "user", content: [{ type: "text", text: question }] });
  if (picture) messages[0].content.unshift(picture);
  return messages;
}
