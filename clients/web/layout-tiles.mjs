// Knows the layouts that cut a picture into tiles of one size, row by row, and put the whole of it
// behind them.

import { Layout, gridOf, partOf } from "./layout-base.mjs";
import { crop, resize } from "./pictures.mjs";

const MOST_TILES = 100; // published models are read with 17 at most

/**
 * The grid whose proportions are nearest to a picture's. Of several as near, the first, or the last
 * that covers less than twice the picture's pixels.
 * @param {number} width of the picture in pixels
 * @param {number} height of it
 * @param {number} area of a tile in pixels
 * @param {{rows: number, columns: number}[]} shapes in the order in which they are looked at
 */
export function nearestShape(width, height, area, shapes) {
  const far = ({ rows, columns }) => Math.abs(width / height - columns / rows);
  const least = Math.min(...shapes.map(far));
  const nearest = shapes.filter((shape) => far(shape) === least);
  const filled = nearest.slice(1).filter((s) => height * width > 0.5 * area * s.rows * s.columns);
  return filled.at(-1) ?? nearest[0];
}

/** The equal parts of a picture whose edges are multiples of a tile's, row by row. */
export function partsOf(picture, tall, wide) {
  const parts = [];
  for (let y = 0; y < picture.height; y += tall) {
    for (let x = 0; x < picture.width; x += wide) parts.push(crop(picture, x, y, wide, tall));
  }
  return parts;
}

/** Where the parts of a picture lie in it, and the whole behind them. */
export function partsAndWhole(grid) {
  const count = grid.rows * grid.columns;
  const parts = Array.from({ length: count }, (_, number) => {
    return partOf(grid, grid.rows, grid.columns, number);
  });
  const whole = { x: 0, y: 0, width: grid.width, height: grid.height };
  return grid.whole === "last" ? [...parts, whole] : parts;
}

/** InternVL's: squeezed onto the grid nearest to the picture's proportions. */
export class ClosestTiles extends Layout {
  constructor(facts) {
    super(facts);
    const most = this.whole("max_tiles");
    if (most > MOST_TILES) throw this.damaged("max_tiles");
    this.shapes = shapesOf(this.whole("min_tiles"), most);
    if (!this.shapes.length) throw this.damaged("max_tiles");
    this.before = this.ids("before");
    this.after = this.ids("after");
  }

  /** See `Layout.grid`. */
  grid(width, height) {
    const [tall, wide] = this.tileSize;
    const { rows, columns } = nearestShape(width, height, tall * wide, this.shapes);
    return gridOf({ width, height }, { rows, columns, whole: rows * columns > 1 ? "last" : null });
  }

  /** See `Layout.parts`. */
  parts(picture, { rows, columns, whole }) {
    const [tall, wide] = this.tileSize;
    const filter = this.steps.resample;
    const parts = partsOf(resize(picture, wide * columns, tall * rows, filter), tall, wide);
    return whole ? [...parts, resize(picture, wide, tall, filter)] : parts;
  }

  /** See `Layout.rectangles`. */
  rectangles(grid) {
    return partsAndWhole(grid);
  }

  /** See `Layout.slots`: between the ids around a picture. */
  slots(grid, kept) {
    return [...this.before, ...super.slots(grid, kept), ...this.after];
  }
}

/** Every grid of so many tiles: fewest tiles first, then fewest columns. */
function shapesOf(least, most) {
  const shapes = [];
  for (let columns = 1; columns <= most; columns++) {
    for (let rows = 1; rows * columns <= most; rows++) {
      if (rows * columns >= least) shapes.push({ rows, columns });
    }
  }
  return shapes.sort((a, b) => a.rows * a.columns - b.rows * b.columns || a.columns - b.columns);
}

/** Idefics3's and SmolVLM's: each part is named in the prompt by its row and column. */
export class Idefics3 extends Layout {
  constructor(facts) {
    super(facts);
    this.edge = this.tileSize[0];
    this.longest = this.whole("longest_edge");
    this.splits = this.options.splits;
    this.resizes = this.options.resizes ?? true;
    this.mostEdge = this.figures.most_edge;
    const { marks = {} } = this.options;
    const names = ["around", "whole", "row_end", "last_row_end"];
    this.marks = Object.fromEntries(names.map((name) => [name, this.ids("marks", marks[name])]));
  }

  /** See `Layout.grid`. */
  grid(width, height) {
    const [tall, wide] = this.wholeTiles(...this.firstSize(height, width));
    const [rows, columns] = [tall / this.edge, wide / this.edge];
    return gridOf({ width, height }, { rows, columns, whole: rows * columns > 1 ? "last" : null });
  }

  /** See `Layout.parts`: resized as often as transformers does, as each time rounds to 8 bits. */
  parts(picture, grid) {
    const { edge } = this;
    const filter = this.steps.resample;
    const first = this.firstSize(picture.height, picture.width);
    const [tall, wide] = this.wholeTiles(...first);
    const resized = resize(resize(picture, first[1], first[0], filter), wide, tall, filter);
    if (grid.tiles === 1) return [resized];
    return [...partsOf(resized, edge, edge), resize(resized, edge, edge, filter)];
  }

  /** See `Layout.rectangles`. */
  rectangles(grid) {
    return partsAndWhole(grid);
  }

  /** See `Layout.slots`: those of each tile behind the ids that name it. */
  slots(grid, kept) {
    const { around, whole, row_end: rowEnd, last_row_end: lastRowEnd } = this.marks;
    const ids = [];
    for (let tile = 0; grid.whole && tile < grid.tiles - 1; tile++) {
      const [row, column] = [Math.floor(tile / grid.columns), tile % grid.columns];
      const name = this.ids("parts", this.options.parts[row]?.[column]);
      ids.push(...around, ...name, ...this.filled(kept[tile].length));
      if (column === grid.columns - 1) ids.push(...(row === grid.rows - 1 ? lastRowEnd : rowEnd));
    }
    return [...ids, ...around, ...whole, ...this.filled(kept[grid.tiles - 1].length), ...around];
  }

  /** [height, width] of a picture before it is brought to whole tiles. */
  firstSize(height, width) {
    const large = Math.max(height, width) > this.longest;
    if (!this.resizes && !(this.splits && large)) return [height, width];
    const [tall, wide] = scaled(height, width, this.longest);
    const aspect = wide / tall;
    if (wide >= tall && wide > this.mostEdge) {
      return [Math.max(Math.trunc(this.mostEdge / aspect), 1), this.mostEdge];
    }
    if (tall > wide && tall > this.mostEdge) {
      return [this.mostEdge, Math.max(Math.trunc(this.mostEdge * aspect), 1)];
    }
    return [tall, wide];
  }

  /** [height, width] in whole tiles, computed in this order, rounding included. */
  wholeTiles(height, width) {
    if (!this.splits) return [this.edge, this.edge];
    const aspect = width / height;
    if (width >= height) {
      const wide = this.up(width);
      return [this.up(Math.trunc(wide / aspect)), wide];
    }
    const tall = this.up(height);
    return [tall, this.up(Math.trunc(tall * aspect))];
  }

  up(length) {
    return Math.ceil(length / this.edge) * this.edge;
  }
}

/** [height, width] with the longer edge at `longest` and the shorter one even. */
function scaled(height, width, longest) {
  const aspect = width / height;
  const even = (short) => Math.max(short + (short % 2), 1);
  if (width >= height) return [even(Math.trunc(longest / aspect)), longest];
  return [longest, even(Math.trunc(longest * aspect))];
}
