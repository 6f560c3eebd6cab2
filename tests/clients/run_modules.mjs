// Runs many cases of the web client's modules in one process: cases and bytes in, results and bytes
// out, both in the folder that it is given.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { openLayout } from "../../clients/web/layouts.mjs";
import * as pictures from "../../clients/web/pictures.mjs";
import { positionsNamed } from "../../clients/web/positions.mjs";

const folder = process.argv[2];
const cases = JSON.parse(readFileSync(join(folder, "cases.json"), "utf-8"));
const given = readFileSync(join(folder, "given.bin"));
const made = [];
let at = 0;

/** Puts bytes into the file of bytes; what is returned says where. */
function left(array) {
  made.push(Buffer.from(array.buffer, array.byteOffset, array.byteLength));
  at += array.byteLength;
  return [at - array.byteLength, array.byteLength];
}

const bytesOf = ([start, length]) => given.subarray(start, start + length);
const floatsOf = (place) => new Float32Array(Uint8Array.from(bytesOf(place)).buffer);
const pictureOf = ({ at: place, width, height }) => ({ data: bytesOf(place), width, height });
const imageOf = ({ data, width, height }) => ({ width, height, at: left(data) });

const RUN = {
  resize({ picture, width, height, filter }) {
    return imageOf(pictures.resize(pictureOf(picture), width, height, filter));
  },
  prepare({ picture, steps }) {
    const tile = pictures.preparePicture(pictureOf(picture), steps);
    return { ...imageOf(tile), values: left(pictures.toPixelValues(tile, { picture: steps })) };
  },
  upright({ picture: { at: place, width, height }, orientation }) {
    return imageOf(pictures.upright(bytesOf(place), width, height, orientation));
  },
  orientation({ files }) {
    return files.map((place) => pictures.exifOrientation(bytesOf(place)));
  },
  async decode({ file }) {
    return imageOf(await pictures.decodePicture(bytesOf(file)));
  },
  cut({ facts, picture, several }) {
    const opened = openLayout(facts);
    const layout = several ? opened.several : opened;
    const { tiles, rectangles, grid } = layout.cut(pictureOf(picture));
    const numbers = tiles.map((_, tile) => tile);
    const tokens = numbers.map((tile) => layout.tokenGrid(grid, tile));
    return {
      grid,
      rectangles,
      tokens,
      batches: layout.batches(grid),
      views: tiles.map(imageOf),
      values: tiles.map((tile) => left(pictures.toPixelValues(tile, layout.steps))),
      patches: numbers.map((tile) => {
        const { rows, columns } = tokens[tile];
        return Array.from({ length: rows * columns }, (_, i) => layout.patches(grid, tile, i));
      }),
    };
  },
  grids({ facts, sizes }) {
    const layout = openLayout(facts);
    return sizes.map(([width, height]) => layout.grid(width, height));
  },
  arrange({ facts, size, kept, features, constants, several }) {
    const opened = openLayout(facts);
    const layout = several ? opened.several : opened;
    const grid = layout.grid(...size);
    const named = Object.entries(constants).map(([name, place]) => [name, floatsOf(place)]);
    const rows = features.map(floatsOf);
    const arranged = layout.arrange(grid, rows, kept, Object.fromEntries(named));
    return { ids: layout.slots(grid, kept), arranged: left(arranged) };
  },
  positions({ name, pieces }) {
    const positions = positionsNamed(name);
    let next = 0;
    const numbered = pieces.map(({ text, grid, kept }) => {
      const numbers = kept ? positions.picture(next, grid, kept) : positions.text(next, text);
      next = numbers.next;
      return numbers;
    });
    const axes = Array.from({ length: positions.axes }, (_, axis) => axis);
    return { planes: axes.map((axis) => numbered.flatMap(({ planes }) => planes[axis])), next };
  },
};

const results = [];
for (const { run, ...rest } of cases) {
  try {
    results.push(await RUN[run](rest));
  } catch (error) {
    results.push({ refused: `${error.name}: ${error.message}` });
  }
}
writeFileSync(join(folder, "results.json"), JSON.stringify(results));
writeFileSync(join(folder, "made.bin"), Buffer.concat(made));
