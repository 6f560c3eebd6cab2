// Knows whether a device computes as it should: the artifact's own picture, held to its bounds.
package io.pocketvlm

/**
 * The self-test of an artifact: what its graphs gave where they were exported, see
 * selftest.schema.json of PocketVLM.
 */
internal class SelfTest(
    private val facts: Facts,
    private val layout: Layout,
    private val reader: PictureReader?,
) {
    /** What was opened. */
    class Graphs(
        val vision: Vision,
        val budget: Int,
        val visionPrecision: String,
        val decoder: Decoder,
        val decoderPrecision: String,
    )

    /**
     * Refuses a provider that computes otherwise; raises [EngineException].
     *
     * @param defaultVision opens the vision graph of the default budget, which the decoder is
     *     tested behind.
     */
    fun require(provider: String, graphs: Graphs, defaultVision: () -> Vision) {
        val stated = facts.data.find("self_test") ?: throw EngineException(
            "$provider cannot be held against a self-test: the artifact has none",
            advice = "export it again, or use the CPU",
        )
        val read = reader ?: throw RequestException(
            "$provider must pass the artifact's self-test, and nothing reads its picture",
            advice = "give load a PictureReader",
        )
        val data = Facts.parsed(facts.file(stated["file"].text()))
        val pictures = stated["pictures"].texts().map { read.read(facts.file(it)) }
        val figures = figures(data, cutOf(data["grid"], pictures), graphs, defaultVision)
        val failed = figures.filter { !it.passed }
        if (failed.isNotEmpty()) {
            throw EngineException(
                "$provider does not pass the artifact's self-test: ${failed.joinToString()}",
                advice = "use the CPU",
            )
        }
    }

    private fun figures(
        data: Json,
        cut: Cut,
        graphs: Graphs,
        defaultVision: () -> Vision,
    ): List<Figure> {
        val seen = graphs.vision.see(cut)
        val vision = data["vision"].items().find { it["budget"].int() == graphs.budget }
            ?: throw silent("the vision graph of ${graphs.budget} tokens")
        val bounds = vision["bounds"].find(graphs.visionPrecision)
            ?: throw silent("the vision graph in ${graphs.visionPrecision}")
        val ofVision = VisionCheck(seen, vision["batches"].items()).figures(bounds)
        val own = graphs.budget == facts.visualTokens
        val read = if (own) seen else defaultVision().use { it.see(cut) }
        return ofVision + answered(data, read, graphs)
    }

    private fun answered(data: Json, seen: Seen, graphs: Graphs): List<Figure> {
        val expected = data["decoder"]
        val bounds = expected["bounds"].items().find {
            it["engine"].text() == "onnx" &&
                it["precision"].text() == graphs.decoderPrecision &&
                it["vision"].text() == graphs.visionPrecision
        } ?: throw silent("the decoder in ${graphs.decoderPrecision}")
        val tokens = expected["token_ids"].longs()
        val prompt = promptOf(data["prompt_ids"].longs(), seen, seen.budget, layout, facts)
        val logits = graphs.decoder.sequence().use { sequence ->
            val first = sequence.prefill(prompt, null).first
            listOf(first) + tokens.dropLast(1).map { sequence.decode(it, null) }
        }
        return AnswerCheck(logits, expected, tokens).figures(bounds["bounds"])
    }

    /** The tiles of the test's pictures, one below the other, which are not resized. */
    private fun cutOf(grid: Json, pictures: List<Picture>): Cut {
        val (rows, columns) = grid["rows"].int() to grid["columns"].int()
        val whole = grid.find("whole") != null
        val apart = grid.find("whole_tokens")?.let { gridOf(it) }
        val count = rows * columns + if (whole && apart == null) 1 else 0
        val tiles = tilesOf(pictures[0], count) + pictures.drop(1).flatMap { tilesOf(it, 1) }
        val tokens = gridOf(grid.find("tokens") ?: facts.data["grid"])
        return Cut(tiles, rows, columns, whole, tokens, apart)
    }

    private fun tilesOf(picture: Picture, count: Int): List<Tile> {
        val (width, height) = picture.width to picture.height / count
        val all = Area(0.0, 0.0, width.toDouble(), height.toDouble())
        return List(count) { Tile(picture.crop(0, it * height, width, height), all) }
    }

    private fun gridOf(pair: Json): TokenGrid =
        pair.longs().let { (rows, columns) -> TokenGrid(rows.toInt(), columns.toInt()) }

    private fun silent(of: String) =
        ArtifactException("the self-test says nothing of $of", advice = "export it again")
}
