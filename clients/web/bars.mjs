/**
 * Knows how the time of an answer is shown, a bar for each stage.
 * @module
 */

/**
 * Milliseconds by stage; what is missing is not shown. `decode` is of one further token.
 * @typedef {{preprocess?: number, vision?: number, embed?: number, prefill?: number,
 *   ttft?: number, decode?: number}} Timings
 */

/** Stages in the order in which they come, with the words for them. */
export const STAGES = /** @type {const} */ ([
  ["preprocess", "Preparing the picture"],
  ["vision", "Vision"],
  ["embed", "Embedding the words"],
  ["prefill", "Prefill"],
  ["ttft", "Time to first token"],
  ["decode", "Each further token"],
]);
const BEFORE_FIRST = new Set(["preprocess", "vision", "embed", "prefill"]);

/**
 * Where each bar begins and ends: stages before the first token follow each other, as they do.
 * @param {Timings} timings
 * @returns {{stage: string, label: string, milliseconds: number, start: number, share: number}[]}
 *   start and share as parts of the longest line
 */
export function layOut(timings) {
  const rows = STAGES.filter(([stage]) => Number.isFinite(timings[stage]));
  const summed = rows.reduce(
    (sum, [stage]) => sum + (BEFORE_FIRST.has(stage) ? Number(timings[stage]) : 0),
    0,
  );
  const longest = Math.max(summed, timings.ttft ?? 0, timings.decode ?? 0, 1e-6);
  let reached = 0;
  return rows.map(([stage, label]) => {
    const milliseconds = Number(timings[stage]);
    const start = BEFORE_FIRST.has(stage) ? reached / longest : 0;
    if (BEFORE_FIRST.has(stage)) reached += milliseconds;
    return { stage, label, milliseconds, start, share: milliseconds / longest };
  });
}

/**
 * Milliseconds for people: "0.4 ms", "38 ms", "1.24 s".
 * @param {number} milliseconds
 * @returns {string}
 */
export function duration(milliseconds) {
  if (milliseconds >= 1000) return `${(milliseconds / 1000).toFixed(2)} s`;
  return milliseconds < 10 ? `${milliseconds.toFixed(1)} ms` : `${Math.round(milliseconds)} ms`;
}

/**
 * Fill the table of an answer's times.
 * @param {HTMLTableElement} table
 * @param {Timings} timings
 */
export function showBars(table, timings) {
  const body = table.tBodies[0];
  body.replaceChildren();
  for (const { stage, label, milliseconds, start, share } of layOut(timings)) {
    const row = body.insertRow();
    row.className = stage === "ttft" ? "ttft total" : stage;
    row.dataset.stage = stage;
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = label;
    row.append(head);
    const track = document.createElement("span");
    track.className = "track";
    const bar = document.createElement("span");
    bar.className = "bar";
    bar.style.marginLeft = `${(100 * start).toFixed(2)}%`;
    bar.style.width = `${Math.min(100 * share, 100 - 100 * start).toFixed(2)}%`;
    track.append(bar);
    row.insertCell().append(track);
    row.insertCell().textContent = duration(milliseconds);
  }
  table.hidden = !body.rows.length;
}
