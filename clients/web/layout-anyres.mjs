// Knows LLaVA-NeXT's tiles: the whole picture in one, then the picture in the grid that wastes
// least; and the three ways in which their tokens are put together.

import { Layout, gridOf, joined, partOf } from "./layout-base.mjs";
import { partsOf } from "./layout-tiles.mjs";
import { crop, resize } from "./pictures.mjs";

const NEWLINE = "image_newline";
const SLACK = 1.1; // along an edge: features up to so much above the limit stay as they are

/**
 * [width, height] as large as fits into another, the aspect ratio kept; the edge that does not fill
 * its side is rounded up.
 */
function fitted(width, height, wide, tall) {
  const [across, down] = [wide / width, tall / height];
  if (across < down) return [wide, Math.min(Math.ceil(height * across), tall)];
  return [Math.min(Math.ceil(width * down), wide), tall];
}

/** As FasterVLM puts them together: in raster order of the map that all parts make up. */
export class AnyRes extends Layout {
  constructor(facts) {
    super(facts);
    if (!Array.isArray(this.options.pinpoints) || !this.options.pinpoints.length) {
      throw this.damaged("pinpoints");
    }
    this.side = this.figures.side; // patches along an edge of a tile
  }

  /** See `Layout.grid`. */
  grid(width, height) {
    const [tall, wide] = this.target(height, width);
    const [rows, columns] = [tall / this.tileSize[0], wide / this.tileSize[1]];
    return gridOf({ width, height }, { rows, columns, whole: "first" });
  }

  /** See `Layout.parts`. */
  parts(picture, { rows, columns }) {
    const [tall, wide] = this.tileSize;
    const [width, height] = [wide * columns, tall * rows];
    const filter = this.steps.resample;
    const [baseTall, baseWide] = this.figures.base;
    const size = fitted(picture.width, picture.height, width, height);
    const scaled = resize(picture, size[0], size[1], filter);
    const [left, top] = [(width - size[0]) >> 1, (height - size[1]) >> 1];
    const canvas = crop(scaled, -left, -top, width, height); // black around it
    return [resize(picture, baseWide, baseTall, filter), ...partsOf(canvas, tall, wide)];
  }

  /** See `Layout.rectangles`: parts of a canvas that is larger than the picture. */
  rectangles(grid) {
    const { width, height, rows, columns } = grid;
    const [tall, wide] = this.tileSize;
    const canvas = { width: wide * columns, height: tall * rows };
    const size = fitted(width, height, canvas.width, canvas.height);
    const [left, top] = [(canvas.width - size[0]) >> 1, (canvas.height - size[1]) >> 1];
    const [across, down] = [width / size[0], height / size[1]];
    const parts = Array.from({ length: rows * columns }, (_, number) => {
      const part = partOf(canvas, rows, columns, number);
      const own = { width: part.width * across, height: part.height * down };
      const at = { x: (part.x - left) * across, y: (part.y - top) * down };
      return this.shown({ ...own, ...at }, wide, tall);
    });
    const [baseTall, baseWide] = this.figures.base;
    return [this.shown({ x: 0, y: 0, width, height }, baseWide, baseTall), ...parts];
  }

  /** [height, width] of the size that shows most of a picture, of equals with least padding. */
  target(height, width) {
    let best = null;
    for (const pinpoint of this.options.pinpoints) {
      const scale = Math.min(pinpoint[1] / width, pinpoint[0] / height);
      const shown = Math.min(
        Math.trunc(width * scale) * Math.trunc(height * scale),
        width * height,
      );
      const wasted = pinpoint[0] * pinpoint[1] - shown;
      const better = !best || shown > best.shown || (shown === best.shown && wasted < best.wasted);
      if (better) best = { pinpoint, shown, wasted };
    }
    return best.pinpoint;
  }

  /** Of each token kept of the parts: its place in their map, its tile and its row there. */
  places(grid, kept) {
    const places = [];
    for (let tile = 1; tile < grid.tiles; tile++) {
      const [top, left] = [Math.floor((tile - 1) / grid.columns), (tile - 1) % grid.columns];
      for (let at = 0; at < kept[tile].length; at++) {
        const index = Number(kept[tile][at]);
        const row = top * this.side + Math.floor(index / this.side);
        places.push({ row, column: left * this.side + (index % this.side), tile, at });
      }
    }
    return places;
  }

  /** See `Layout.arrange`. */
  inOrder(grid, features, kept, _constants) {
    const hidden = features[0].length / kept[0].length;
    const places = this.places(grid, kept).sort((a, b) => a.row - b.row || a.column - b.column);
    return joined([features[0], ...places.map((place) => rowOf(features, place, hidden))]);
  }
}

function rowOf(features, { tile, at }, hidden) {
  return features[tile].subarray(at * hidden, (at + 1) * hidden);
}

/** As transformers puts them together: padding left out, a newline after each row. */
export class AnyResUnpadded extends AnyRes {
  /** See `Layout.slots`. */
  slots(grid, kept) {
    const { rows } = this.unpadded(grid);
    return this.filled(kept[0].length + this.inside(grid, kept).length + rows.length);
  }

  /** See `Layout.arrange`. */
  inOrder(grid, features, kept, constants) {
    const hidden = features[0].length / kept[0].length;
    const inside = this.inside(grid, kept).sort((a, b) => a.row - b.row || a.column - b.column);
    const { rows } = this.unpadded(grid);
    const lines = Array.from({ length: rows.length }, () => []);
    for (const place of inside) {
      lines[place.row - rows.start].push(rowOf(features, place, hidden));
    }
    return joined([features[0], ...lines.flatMap((line) => [...line, constants[NEWLINE]])]);
  }

  /** Rows and columns of the parts' map that are not padding. */
  unpadded({ width, height, rows: down, columns: across }) {
    const [rows, columns] = [this.side * down, this.side * across];
    // Rounded and cut in this order, as transformers does.
    const rounded = (value) => Math.trunc(Number(value.toFixed(7)));
    if (width / height > columns / rows) {
      const padding = Math.floor((rows - rounded(height * (columns / width))) / 2);
      return { rows: span(padding, rows - padding), columns: span(0, columns) };
    }
    const padding = Math.floor((columns - rounded(width * (rows / height))) / 2);
    return { rows: span(0, rows), columns: span(padding, columns - padding) };
  }

  inside(grid, kept) {
    const { rows, columns } = this.unpadded(grid);
    return this.places(grid, kept).filter(({ row, column }) => {
      return row >= rows.start && row < rows.end && column >= columns.start && column < columns.end;
    });
  }
}

const span = (start, end) => ({ start, end, length: Math.max(end - start, 0) });

/** LLaVA-OneVision's: with every token kept, a map of too many features is shrunk. */
export class AnyResShrunk extends AnyResUnpadded {
  constructor(facts) {
    super(facts);
    this.mostFeatures = this.whole("most_tiles") * this.mostTokens;
  }

  /** See `Layout.slots`. */
  slots(grid, kept) {
    const shrunk = this.shrunk(grid, kept);
    if (!shrunk) return super.slots(grid, kept);
    return this.filled(kept[0].length + shrunk.rows * (shrunk.columns + 1));
  }

  /** See `Layout.arrange`. */
  inOrder(grid, features, kept, constants) {
    const arranged = super.inOrder(grid, features, kept, constants);
    const shrunk = this.shrunk(grid, kept);
    if (!shrunk) return arranged;
    const hidden = constants[NEWLINE].length;
    const whole = arranged.subarray(0, features[0].length);
    const { rows, columns } = this.unpadded(grid);
    const map = {
      values: arranged.subarray(features[0].length),
      rows: rows.length,
      columns: columns.length,
      line: (columns.length + 1) * hidden,
      hidden,
    };
    const lines = shrink(map, shrunk);
    return joined([whole, ...lines.flatMap((line) => [line, constants[NEWLINE]])]);
  }

  /** Rows and columns of the map once it is shrunk; null where it stays as it is. */
  shrunk(grid, kept) {
    if (kept[0].length < this.mostTokens) return null;
    const { rows, columns } = this.unpadded(grid);
    const ratio = Math.sqrt((rows.length * columns.length) / this.mostFeatures);
    if (ratio <= SLACK) return null;
    return { rows: floorDivided(rows.length, ratio), columns: floorDivided(columns.length, ratio) };
  }
}

/** Python's floor division of floats, which starts from the exact remainder. */
function floorDivided(value, by) {
  return Math.round((value - (value % by)) / by);
}

/** Between which two places each of fewer lies, and how far towards the second. */
function between(size, target) {
  const scale = Math.fround(size / target);
  return Array.from({ length: target }, (_, number) => {
    const centre = Math.fround(Math.fround(Math.fround(number + 0.5) * scale) - 0.5);
    const place = Math.max(centre, 0);
    const low = Math.trunc(place);
    return { low, high: Math.min(low + 1, size - 1), part: Math.fround(place - low) };
  });
}

/** Two numbers mixed in single precision, rounded as often as arrays of it are. */
function mixed(low, high, part) {
  const rest = Math.fround(1 - part);
  return Math.fround(Math.fround(low * rest) + Math.fround(high * part));
}

/** A map of features resized along rows, then along columns: its lines, without newlines. */
function shrink({ values, rows, columns, line, hidden }, target) {
  const across = between(columns, target.columns);
  return between(rows, target.rows).map(({ low, high, part }) => {
    const narrow = new Float32Array(columns * hidden);
    for (let at = 0; at < narrow.length; at++) {
      narrow[at] = mixed(values[low * line + at], values[high * line + at], part);
    }
    const made = new Float32Array(target.columns * hidden);
    across.forEach((place, column) => {
      for (let at = 0; at < hidden; at++) {
        const [left, right] = [narrow[place.low * hidden + at], narrow[place.high * hidden + at]];
        made[column * hidden + at] = mixed(left, right, place.part);
      }
    });
    return made;
  });
}
