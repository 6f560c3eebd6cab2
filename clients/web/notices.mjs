/**
 * Knows how the page tells people what is going on: notices, and how far a download is.
 * @module
 */
import { Downloads, megabytes } from "./progress.mjs";

/**
 * Show a sentence until it is put away.
 * @param {HTMLElement} place
 * @param {string} sentence
 * @param {{bad?: boolean}} [options] bad: an error
 */
export function notify(place, sentence, { bad = false } = {}) {
  for (const other of place.children) {
    if (/** @type {HTMLElement} */ (other).dataset.sentence === sentence) return;
  }
  const line = document.createElement("p");
  line.dataset.sentence = sentence;
  if (bad) line.className = "bad";
  const words = document.createElement("span");
  words.textContent = sentence;
  const away = document.createElement("button");
  away.type = "button";
  away.textContent = "✕";
  away.setAttribute("aria-label", "Dismiss this notice");
  away.addEventListener("click", () => line.remove());
  line.append(words, away);
  place.append(line);
}

/** The bar of what is downloaded. */
export class LoadingBar {
  /** @param {{section: HTMLElement, bar: HTMLProgressElement, bytes: HTMLElement,
   *   words: HTMLElement}} parts of the page */
  constructor(parts) {
    this.parts = parts;
    this.downloads = new Downloads();
  }

  /** @param {string} model its name */
  begin(model) {
    this.downloads = new Downloads();
    this.parts.words.textContent = `Loading ${model}`;
    this.parts.bytes.textContent = "";
    this.parts.bar.removeAttribute("value");
    this.parts.section.hidden = false;
  }

  /** @param {{file: string, loaded: number, total: number}} progress */
  note(progress) {
    const { loaded, total, share } = this.downloads.note(progress);
    const { bar, bytes, words } = this.parts;
    bytes.textContent = share === null
      ? megabytes(loaded)
      : `${megabytes(loaded)} of ${megabytes(total)}`;
    if (share === null) bar.removeAttribute("value");
    else bar.value = share;
    if (share === 1) words.textContent = "Starting the model";
  }

  /** Put it away. */
  end() {
    this.parts.section.hidden = true;
  }
}
