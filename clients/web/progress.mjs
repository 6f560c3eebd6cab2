/**
 * Knows how far downloads are, by bytes.
 * @module
 */

/** Bytes of several files that come at once. */
export class Downloads {
  constructor() {
    /** @type {Map<string, {loaded: number, total: number}>} */
    this.files = new Map();
  }

  /**
   * Note how far a file is.
   * @param {{file: string, loaded: number, total?: number}} progress bytes; total 0 where the host
   *   does not say
   * @returns {{loaded: number, total: number, share: number | null}} of all files; null where a
   *   total is missing
   */
  note({ file, loaded, total = 0 }) {
    this.files.set(file, { loaded, total: Math.max(total || 0, 0) });
    let [sum, of, known] = [0, 0, true];
    for (const each of this.files.values()) {
      sum += each.loaded;
      of += Math.max(each.total, each.loaded);
      known &&= each.total > 0;
    }
    return { loaded: sum, total: of, share: known && of ? sum / of : null };
  }
}

/**
 * Bytes for people, in megabytes as downloads are counted.
 * @param {number} bytes
 * @returns {string}
 */
export function megabytes(bytes) {
  const value = bytes / 1e6;
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} MB`;
}
