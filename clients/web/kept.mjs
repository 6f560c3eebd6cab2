/**
 * Knows which patches of a picture a budget keeps, and where they lie in it.
 * @module
 */

/** @typedef {{x: number, y: number, width: number, height: number}} Rectangle pixels */

/**
 * The patches of one tile, the best first: a budget of j keeps the first j. `whole`: the tile shows
 * all of a picture that others show parts of. `only`: the one budget that is known of, where there
 * is no order among them.
 * @typedef {{whole: boolean, ranked: Rectangle[], only?: number}} TilePatches
 */

/**
 * What a budget keeps of a picture.
 * @param {TilePatches[] | null} tiles of the picture; null where nothing is known yet
 * @param {number} budget patches of each tile
 * @returns {{whole: boolean, patches: Rectangle[]}[]} for each tile, best first
 */
export function keptPatches(tiles, budget) {
  return (tiles ?? [])
    .filter(({ only }) => only === undefined || only === budget)
    .map(({ whole, ranked }) => ({ whole, patches: ranked.slice(0, budget) }));
}

/**
 * The places of patches in the order in which smaller budgets give them up: `kept(j)` has one index
 * more than `kept(j - 1)`, and that one is of rank j - 1.
 * @param {(budget: number) => ArrayLike<number>} kept indices that a budget keeps, nested
 * @param {number} most the largest budget
 * @returns {number[]} indices, the best first
 */
export function ranking(kept, most) {
  const ranked = [];
  const present = new Set();
  for (let budget = 1; budget <= most; budget++) {
    for (const index of Array.from(kept(budget))) {
      if (present.has(index)) continue;
      present.add(index);
      ranked.push(index);
    }
  }
  return ranked;
}

/**
 * What a slider for the budget offers.
 * @param {number[]} budgets that the model has graphs for
 * @param {boolean} nested whether each graph serves any smaller budget
 * @returns {number[]} budgets to choose from, rising
 */
export function offered(budgets, nested) {
  const rising = [...new Set(budgets)].sort((a, b) => a - b);
  if (!nested || !rising.length) return rising;
  return Array.from({ length: rising[rising.length - 1] }, (_, place) => place + 1);
}
