/**
 * Knows live mode: the same question about each new frame of a camera.
 * @module
 */
import { duration } from "./bars.mjs";
import { keptPatches } from "./kept.mjs";

/** @typedef {import("./back_ends.mjs").BackEnd} BackEnd */

/**
 * Ask about frames until the camera is stopped. Frames that come meanwhile are dropped.
 * @param {object} parts
 * @param {import("./camera.mjs").Camera} parts.camera that runs
 * @param {BackEnd} parts.backEnd
 * @param {import("./view.mjs").PictureView} parts.view
 * @param {HTMLElement} parts.caption for the answer
 * @param {HTMLElement} parts.figures a list: frames a second, time to first token
 * @param {() => {question: string, budget: number, maxNewTokens: number}} parts.asked what to ask
 *   of the next frame
 * @param {AbortSignal} parts.signal ends the answer at hand
 * @returns {Promise<void>}
 */
export async function watch({ camera, backEnd, view, caption, figures, asked, signal }) {
  const stopDrawing = drawFrames(camera, view);
  caption.hidden = false;
  figures.hidden = false;
  figures.replaceChildren();
  try {
    while (camera.running && !signal.aborted) {
      const frame = await camera.frame();
      const seen = await backEnd.see(frame);
      try {
        if (signal.aborted) return;
        const { question, budget, maxNewTokens } = asked();
        if (seen.tiles) view.keep(keptPatches(seen.tiles, budget));
        const answer = await backEnd.ask({
          turns: [], question, seen, budget, maxNewTokens, signal, onText: () => {},
        });
        if (signal.aborted) return;
        if (answer.tiles) view.keep(keptPatches(answer.tiles, budget));
        caption.textContent = answer.text.trim();
        show(figures, camera.finished(), answer);
      } finally {
        backEnd.release(seen);
      }
    }
  } finally {
    stopDrawing();
    caption.hidden = true;
    figures.hidden = true;
  }
}

/**
 * Draw each frame as it comes, with the patches that were kept of the last one asked about.
 * @param {import("./camera.mjs").Camera} camera
 * @param {import("./view.mjs").PictureView} view
 * @returns {() => void} ends it
 */
function drawFrames(camera, view) {
  let drawing = true;
  const draw = () => {
    if (!drawing || !camera.running) return;
    if (camera.size.width) view.show(camera.video, camera.size);
    requestAnimationFrame(draw);
  };
  view.keep([]);
  draw();
  return () => {
    drawing = false;
  };
}

/**
 * @param {HTMLElement} list
 * @param {import("./camera.mjs").Figures} figures
 * @param {import("./back_ends.mjs").Answer} answer
 */
function show(list, { perSecond, dropped }, answer) {
  const lines = [
    perSecond ? `${perSecond.toFixed(perSecond < 10 ? 1 : 0)} frames/s` : "first frame",
    answer.timings.ttft === undefined ? "" : `first token ${duration(answer.timings.ttft)}`,
    answer.visualTokens === null ? "" : `${answer.visualTokens} visual tokens`,
    `${dropped} frames dropped`,
  ];
  list.replaceChildren(
    ...lines.filter(Boolean).map((line) => {
      const item = document.createElement("li");
      item.textContent = line;
      return item;
    }),
  );
}
