/**
 * Knows plain words: for errors, and for what a browser or an address lacks.
 * @module
 */

/**
 * One line for people out of whatever was thrown.
 * @param {unknown} error
 * @returns {string}
 */
export function inWords(error) {
  const name = /** @type {{name?: string}} */ (error)?.name ?? "";
  const message = /** @type {{message?: string}} */ (error)?.message ?? String(error);
  switch (name) {
    case "NotAllowedError":
      return "The camera was not allowed. Allow it in the browser's settings for this page.";
    case "NotFoundError":
      return "No camera was found on this device.";
    case "NotReadableError":
      return "The camera is in use by another program.";
    case "NotSupportedError":
      return secureNow()
        ? "This browser gives pages no camera."
        : "A page gets no camera over plain http from another machine: use https or localhost.";
    case "InvalidStateError":
    case "EncodingError":
      return "This file cannot be read as a picture.";
    case "QuotaExceededError":
      return "The browser has no room left for the model's files; they are not kept.";
  }
  if (/failed to fetch|networkerror|load failed/i.test(message)) {
    return "It could not be reached: no network, the server is down, or another host does not "
      + "allow this page to read from it (CORS).";
  }
  if (/out of memory|memory access out of bounds|allocation failed|bad_alloc/i.test(message)) {
    return "This browser has too little memory for the model: take an artifact with fewer bytes, "
      + "or close other pages.";
  }
  return message.split("\n")[0].slice(0, 400) || "Something went wrong, and it did not say what.";
}

/** Whether pages of this address may use caches, the GPU, the camera and threads. */
function secureNow() {
  return globalThis.isSecureContext !== false;
}

/**
 * What this address or browser lacks, and what follows from it.
 * @param {object} [has] what there is; looked up where it is left out
 * @param {boolean} [has.secure] https or localhost
 * @param {boolean} [has.caches] the Cache API
 * @param {boolean} [has.isolated] cross-origin isolation, which threads need
 * @returns {string[]} a sentence each
 */
export function lacking({
  secure = secureNow(),
  caches = "caches" in globalThis,
  isolated = globalThis.crossOriginIsolated === true,
} = {}) {
  if (!secure) {
    return [
      "This page came over plain http from another machine. Browsers then give it no cache (the "
      + "model is downloaded at every visit), no GPU, no camera and no threads: use https or "
      + "localhost.",
    ];
  }
  const sentences = [];
  if (!caches) sentences.push("There is no cache here: the model is downloaded at every visit.");
  if (!isolated) {
    sentences.push(
      "The page is not cross-origin isolated (headers COOP and COEP), so one thread computes.",
    );
  }
  return sentences;
}
