// Knows what is seen of a picture: features, kept tokens, and how a smaller budget is cut.
package io.pocketvlm

import java.util.concurrent.atomic.AtomicLong

/**
 * What a vision graph keeps of one tile.
 *
 * @property features rows of hidden floats, a row for each kept token.
 * @property kept numbers of the kept tokens, ascending, in reading order of the tile.
 * @property scores by which each was kept; higher is better.
 * @property extras further features by name, as many rows each.
 */
class TileFeatures(
    val features: FloatArray,
    val kept: IntArray,
    val scores: FloatArray,
    val extras: Map<String, FloatArray> = emptyMap(),
) {
    /** Rows of the [budget] best scores, ties to the lower row, in reading order. */
    internal fun best(budget: Int): IntArray {
        val order = kept.indices.sortedWith(compareByDescending<Int> { scores[it] }.thenBy { it })
        return order.take(budget).sorted().toIntArray()
    }

    internal fun only(rows: IntArray, hidden: Int) = TileFeatures(
        rowsOf(features, rows, hidden),
        IntArray(rows.size) { kept[rows[it]] },
        FloatArray(rows.size) { scores[rows[it]] },
        extras.mapValues { (_, values) -> rowsOf(values, rows, hidden) },
    )
}

/**
 * A picture that was encoded. It serves any number of questions, at any smaller budget where the
 * method is nested, without running the vision graph again.
 *
 * @property cut how the picture was cut into tiles.
 * @property encodeMs milliseconds that the vision graph took.
 */
class Seen internal constructor(
    val cut: Cut,
    private val tiles: List<TileFeatures>,
    private val most: Int,
    private val nested: Boolean,
    private val hidden: Int,
    val encodeMs: Double,
) {
    // Tells one picture from another in the cache of a sequence.
    internal val number = numbers.incrementAndGet()

    /** Tokens of a tile that the graph kept: the largest budget that can be asked for. */
    val budget: Int = tiles.maxOf { it.kept.size }

    /** What [budget] keeps of each tile, in reading order, by number; no graph is run. */
    fun kept(budget: Int = this.budget): List<IntArray> = narrow(budget).map { it.kept }

    /** The parts of the picture that a budget keeps. */
    fun areas(budget: Int = this.budget): List<Area> =
        kept(budget).flatMapIndexed { tile, kept -> kept.map { cut.area(tile, it) } }

    /** What the graph kept of each tile at a budget; raises [RequestException]. */
    fun narrow(budget: Int): List<TileFeatures> {
        val own = this.budget
        // A tile with fewer tokens than the graph keeps has them all.
        val complete = tiles.indices.all { tiles[it].kept.size == cut.grid(it).tokens }
        if (budget == own || (budget in own..most && complete)) return tiles
        if (budget !in 1..own) {
            throw RequestException("budget $budget", expected = "1 to $own, which this graph keeps")
        }
        if (!nested) {
            throw RequestException(
                "budget $budget cannot be cut from $own tokens: the method is not nested",
                advice = "ask for $own, or export with --budget $budget",
            )
        }
        return tiles.map { if (it.kept.size <= budget) it else it.only(it.best(budget), hidden) }
    }

    private companion object {
        val numbers = AtomicLong()
    }
}

private fun rowsOf(values: FloatArray, rows: IntArray, hidden: Int): FloatArray {
    val made = FloatArray(rows.size * hidden)
    rows.forEachIndexed { to, from ->
        values.copyInto(made, to * hidden, from * hidden, (from + 1) * hidden)
    }
    return made
}
