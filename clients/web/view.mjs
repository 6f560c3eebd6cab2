/**
 * Knows how a picture is drawn: kept patches bright, the rest dimmed and without its colours.
 * @module
 */

/** @typedef {import("./kept.mjs").Rectangle} Rectangle */

const LONGEST = 1400; // pixels of the canvas; a photograph of a phone has three times as many
const SHADE = "rgb(8 11 20 / 56%)";
const SMALL = 192; // pixels of the longer edge of a small copy
const LINE = "#ffc400";

/** A canvas with a picture, or with a camera's frames, and what of it is kept. */
export class PictureView {
  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.canvas = canvas;
    this.context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    /** @type {CanvasImageSource | null} */
    this.source = null;
    this.size = { width: 0, height: 0 };
    /** @type {{whole: boolean, patches: Rectangle[]}[]} */
    this.kept = [];
    this.shown = true;
  }

  /**
   * Show another picture or the next frame of a video.
   * @param {CanvasImageSource} source
   * @param {{width: number, height: number}} size of the picture, which patches are given in
   */
  show(source, size) {
    this.source = source;
    this.size = { width: size.width, height: size.height };
    const scale = Math.min(1, LONGEST / Math.max(size.width, size.height));
    // Small pictures are drawn larger, so that outlines of their patches are fine.
    const least = Math.max(scale, Math.min(6, 560 / Math.max(size.width, size.height)));
    const width = Math.round(size.width * least);
    const height = Math.round(size.height * least);
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
    this.draw();
  }

  /** @param {{whole: boolean, patches: Rectangle[]}[]} kept of each tile; empty: all is bright */
  keep(kept) {
    this.kept = kept;
    this.draw();
  }

  /** @param {boolean} shown whether kept patches are told from the others */
  toggle(shown) {
    this.shown = shown;
    this.draw();
  }

  /** Draw what there is, at once. */
  draw() {
    const { context, canvas, source } = this;
    if (!source) return;
    context.globalCompositeOperation = "source-over";
    context.drawImage(source, 0, 0, canvas.width, canvas.height);
    const parts = this.kept.filter((tile) => !tile.whole);
    const bright = parts.length ? parts : this.kept;
    if (!this.shown || !bright.length) return;
    dim(context, canvas);
    for (const tile of bright) for (const patch of tile.patches) this.lighten(patch);
    if (parts.length) this.outline(this.kept.filter((tile) => tile.whole));
  }

  /** @param {Rectangle} patch drawn as it was */
  lighten(patch) {
    const { context, canvas, source, size } = this;
    const [across, down] = [canvas.width / size.width, canvas.height / size.height];
    // Whole pixels, so that neighbours leave no seam between them.
    const left = Math.max(0, Math.floor(patch.x * across));
    const top = Math.max(0, Math.floor(patch.y * down));
    const right = Math.min(canvas.width, Math.ceil((patch.x + patch.width) * across));
    const bottom = Math.min(canvas.height, Math.ceil((patch.y + patch.height) * down));
    if (right <= left || bottom <= top || !source) return;
    context.save();
    context.beginPath();
    context.rect(left, top, right - left, bottom - top);
    context.clip();
    context.drawImage(source, 0, 0, canvas.width, canvas.height);
    context.restore();
    context.strokeStyle = LINE;
    context.lineWidth = 1;
    context.globalAlpha = 0.75;
    context.strokeRect(left + 0.5, top + 0.5, right - left - 1, bottom - top - 1);
    context.globalAlpha = 1;
  }

  /**
   * A small copy of the picture, all of it bright.
   * @returns {HTMLImageElement}
   */
  small() {
    const scale = Math.min(1, SMALL / Math.max(this.size.width, this.size.height));
    const copy = document.createElement("canvas");
    copy.width = Math.max(1, Math.round(this.size.width * scale));
    copy.height = Math.max(1, Math.round(this.size.height * scale));
    const context = /** @type {CanvasRenderingContext2D} */ (copy.getContext("2d"));
    if (this.source) context.drawImage(this.source, 0, 0, copy.width, copy.height);
    const picture = document.createElement("img");
    picture.src = copy.toDataURL("image/jpeg", 0.85);
    picture.alt = "The picture that was asked about";
    return picture;
  }

  /** @param {{patches: Rectangle[]}[]} tiles whose patches are outlined only */
  outline(tiles) {
    const { context, canvas, size } = this;
    const [across, down] = [canvas.width / size.width, canvas.height / size.height];
    context.strokeStyle = LINE;
    context.setLineDash([6, 5]);
    context.lineWidth = 1;
    for (const { patches } of tiles) {
      for (const { x, y, width, height } of patches) {
        context.strokeRect(x * across, y * down, width * across, height * down);
      }
    }
    context.setLineDash([]);
  }
}

/**
 * Take the colours out of a canvas and darken it.
 * @param {CanvasRenderingContext2D} context
 * @param {HTMLCanvasElement} canvas
 */
function dim(context, canvas) {
  context.globalCompositeOperation = "saturation";
  context.fillStyle = "hsl(0 0% 50%)";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.globalCompositeOperation = "source-over";
  context.fillStyle = SHADE;
  context.fillRect(0, 0, canvas.width, canvas.height);
}

/**
 * @param {ImageBitmap} bitmap
 * @returns {HTMLCanvasElement} what is transparent on white, as the model sees it
 */
export function onWhite(bitmap) {
  const canvas = document.createElement("canvas");
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0);
  return canvas;
}
