// Knows how what a device computed compares with a self-test: figures and their bounds.
package io.pocketvlm

import kotlin.math.abs
import kotlin.math.sqrt

private const val SCORES = "kept_scores"
private const val SMALL = 1e-6 // a difference of scores that are 0, of methods that rank nothing

/** A figure and the bound that it is held to. */
internal class Figure(
    private val name: String,
    private val value: Double,
    private val bound: Double,
    private val atLeast: Boolean = true,
) {
    /** Not so of what is not a number. */
    val passed get() = if (atLeast) value >= bound else value <= bound

    override fun toString() =
        "$name ${"%.4g".format(value)}, ${if (atLeast) "at least" else "at most"} $bound"
}

/** What a vision graph keeps, beside what is expected of each batch. */
internal class VisionCheck(seen: Seen, expected: List<Json>) {
    private val batches = seen.cut.batches.zip(expected) { tiles, each ->
        BatchCheck(seen.narrow(seen.budget).slice(tiles), each)
    }

    fun figures(bounds: Json): List<Figure> {
        val names = batches.flatMap { it.names }.toSet()
        val features = batches.flatMap { each -> (names - SCORES).flatMap { each.pairs(it) } }
        val shared = batches.sumOf { it.shared }.toDouble() / batches.sumOf { it.total }
        val figures = mutableListOf(
            Figure("kept", shared, bounds.find("kept_overlap")?.double() ?: 0.0),
            Figure("features", cosine(features), bounds["cosine"].double()),
        )
        val most = bounds.find("difference")?.double() ?: return figures
        for (batch in batches) for (name in batch.names) {
            val difference = relative(batch.pairs(name), batch.scale(name))
            figures.add(Figure("$name differ", difference, most, atLeast = false))
        }
        return figures
    }
}

/** The tiles of one size. */
private class BatchCheck(private val tiles: List<TileFeatures>, expected: Json) {
    private val rows = expected["rows"].items().map { it.longs() }
    private val columns = expected["columns"].longs().map { it.toInt() }
    private val samples = expected["samples"].members()
    private val theirs = expected["kept_indices"].items().map { tile ->
        tile.longs().map { it.toInt() }.toSet()
    }

    // Of each sampled token its number among the kept ones, -1 where it is not kept.
    private val places = rows.map { (tile, index) ->
        tiles[tile.toInt()].kept.indexOf(index.toInt())
    }

    val names get() = samples.keys
    val shared = tiles.zip(theirs).sumOf { (ours, kept) -> ours.kept.count { it in kept } }
    val total = tiles.zip(theirs).sumOf { (ours, kept) -> maxOf(ours.kept.size, kept.size) }

    fun scale(name: String): Double {
        val largest = samples.getValue(name)["largest"].double()
        return if (name == SCORES) largest else maxOf(1.0, largest)
    }

    fun pairs(name: String): List<Pair<Double, Double>> {
        val values = samples[name]?.get("values")?.items() ?: return emptyList()
        return rows.indices.filter { places[it] >= 0 }.flatMap { row ->
            val ours = outputs(name, tiles[rows[row][0].toInt()], places[row])
            val theirs = values[row].floats()
            ours.indices.map { ours[it].toDouble() to theirs[it].toDouble() }
        }
    }

    private fun outputs(name: String, tile: TileFeatures, place: Int): List<Float> {
        if (name == SCORES) return listOf(tile.scores[place])
        val values = if (name == "image_features") tile.features else tile.extras.getValue(name)
        val hidden = values.size / tile.kept.size
        return columns.map { values[place * hidden + it] }
    }
}

/** Logits after a prompt and after each token of an answer, beside those that are expected. */
internal class AnswerCheck(
    private val logits: List<FloatArray>,
    private val expected: Json,
    private val tokens: LongArray,
) {
    private val columns = expected["columns"].longs().map { it.toInt() }
    private val theirs = expected["logits"]["values"].items().map { it.floats().toList() }
    private val ours = logits.map { row -> columns.map { row[it] } }

    fun figures(bounds: Json): List<Figure> {
        val centred = ours.zip(theirs).flatMap { (a, b) -> lessMean(a).zip(lessMean(b)) }
        val figures = mutableListOf(Figure("logits", cosine(centred), bounds["cosine"].double()))
        val most = bounds.find("difference")?.double() ?: return figures
        val largest = maxOf(1.0, expected["logits"]["largest"].double())
        val pairs = ours.zip(theirs).flatMap { (a, b) ->
            a.zip(b) { x, y -> x.toDouble() to y.toDouble() }
        }
        figures.add(Figure("logits differ", relative(pairs, largest), most, atLeast = false))
        val equal = tokens.indices.count { isToken(it, 2 * most * largest) }
        figures.add(Figure("tokens", equal.toDouble(), tokens.size.toDouble()))
        return figures
    }

    /** Whether the largest logit is the reference's, or one that it prefers by less than [near]. */
    private fun isToken(step: Int, near: Double): Boolean {
        val token = largest(logits[step])
        val at = columns.indexOf(token.toInt())
        return token == tokens[step] ||
            (at >= 0 && theirs[step].max() - theirs[step][at] <= near)
    }

    private fun lessMean(row: List<Float>): List<Double> {
        val mean = row.sumOf { it.toDouble() } / row.size
        return row.map { it - mean }
    }
}

private fun relative(pairs: List<Pair<Double, Double>>, scale: Double): Double =
    (pairs.maxOfOrNull { abs(it.first - it.second) } ?: Double.NaN) / maxOf(scale, SMALL)

private fun cosine(pairs: List<Pair<Double, Double>>): Double {
    if (pairs.isEmpty()) return 0.0
    val lengths = sqrt(pairs.sumOf { it.first * it.first } * pairs.sumOf { it.second * it.second })
    if (lengths == 0.0) return if (pairs.all { it.first == 0.0 && it.second == 0.0 }) 1.0 else 0.0
    return pairs.sumOf { it.first * it.second } / lengths
}
