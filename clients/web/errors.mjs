// Knows refusals: one sentence for people, and the program that shows it needs no other.

/** Something that this client refuses, or that failed, in words for people. */
export class ClientError extends Error {
  /**
   * @param {string} message one line: what is the case, and what to do.
   * @param {unknown} [cause] what was thrown below.
   */
  constructor(message, cause) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = "ClientError";
  }
}

/**
 * The first line of whatever was thrown.
 * @param {unknown} error
 * @returns {string} at most 300 characters.
 */
export function reasonOf(error) {
  const text = error instanceof Error ? error.message : String(error);
  return text.split("\n")[0].slice(0, 300);
}
