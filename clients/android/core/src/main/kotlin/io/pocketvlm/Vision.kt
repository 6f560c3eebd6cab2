// Knows the vision graph at work: tiles in, features of the kept tokens out.
package io.pocketvlm

internal class Vision(
    private val facts: Facts,
    private val engine: Engine,
    private val steps: Steps,
    precision: String,
    private val budget: Int,
) : AutoCloseable {
    private val graph =
        engine.open(facts.file(graphOf(facts, budget, precision)), "the vision graph")

    /** All tiles of a picture, those of one size in one run; raises [EngineException]. */
    fun see(cut: Cut): Seen {
        val started = System.nanoTime()
        val tiles = cut.batches.flatMap { run(cut, it) }
        val took = (System.nanoTime() - started) / 1e6
        return Seen(cut, tiles, budget, facts.nested, facts.hidden, took)
    }

    private fun run(cut: Cut, batch: IntRange): List<TileFeatures> {
        val pictures = cut.tiles.slice(batch).map { it.picture }
        val (width, height) = pictures[0].width to pictures[0].height
        val size = 3 * width * height
        val pixels = FloatArray(size * pictures.size)
        pictures.forEachIndexed { i, tile -> steps.normalise(tile, pixels, i * size) }
        val shape = longArrayOf(pictures.size.toLong(), 3, height.toLong(), width.toLong())
        return engine.floats(pixels, *shape).use { given ->
            graph.run(mapOf("pixel_values" to given), OUTPUTS + facts.extras).use { result ->
                val features = result.floats("image_features")
                val kept = result.longs("kept_indices")
                val scores = result.floats("kept_scores")
                val extras = facts.extras.associateWith { result.floats(it) }
                split(pictures.size, cut.grid(batch.first).tokens, features, kept, scores, extras)
            }
        }
    }

    override fun close() = graph.close()

    private fun split(
        tiles: Int,
        tokens: Int,
        features: FloatArray,
        kept: LongArray,
        scores: FloatArray,
        extras: Map<String, FloatArray>,
    ): List<TileFeatures> {
        val count = kept.size / tiles
        val of = count * facts.hidden
        val whole = count >= 1 && kept.size == count * tiles &&
            scores.size == kept.size && features.size == of * tiles &&
            extras.values.all { it.size == features.size }
        val inside = kept.all { it in 0 until tokens }
        if (!whole || !inside || features.any { !it.isFinite() }) {
            throw EngineException(
                "the vision graph did not give a selection of $tokens tokens",
                advice = "files of two artifacts are mixed, or this device computes wrongly",
            )
        }
        return (0 until tiles).map { tile ->
            fun part(values: FloatArray) = values.copyOfRange(tile * of, (tile + 1) * of)
            TileFeatures(
                part(features),
                IntArray(count) { kept[tile * count + it].toInt() },
                scores.copyOfRange(tile * count, (tile + 1) * count),
                extras.mapValues { (_, values) -> part(values) },
            )
        }
    }

    companion object {
        private val OUTPUTS = setOf("image_features", "kept_indices", "kept_scores")

        private fun graphOf(facts: Facts, budget: Int, precision: String): String {
            val files = facts.visionGraphs[budget] ?: throw RequestException(
                "there is no vision graph that keeps $budget tokens",
                expected = facts.visionGraphs.keys.joinToString(" or "),
            )
            return files[precision] ?: throw RequestException(
                "there is no vision graph in $precision",
                expected = files.keys.joinToString(" or "),
            )
        }
    }
}
