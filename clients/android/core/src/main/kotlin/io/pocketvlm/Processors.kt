// Knows what a checkpoint was published with between its logits and the token that is picked.
package io.pocketvlm

/**
 * The logits processors of an artifact, as transformers computes them in float32. One that is not
 * served is refused: answers without it would be another model's.
 */
internal class Processors(facts: Facts) {
    private val ends = facts.ends
    private val stated = facts.data["generation"]["processors"]
    private val penalty = stated.find("repetition_penalty")?.double()?.toFloat()
    private val runs = stated.find("no_repeat_ngram_size")?.int() ?: 0
    private val never = stated.find("suppress_tokens")?.longs() ?: LongArray(0)
    private val notFirst = stated.find("begin_suppress_tokens")?.longs() ?: LongArray(0)
    private val least = stated.find("min_new_tokens")?.int() ?: 0
    private val words = stated.find("bad_words_ids")?.items().orEmpty()
        .map { it.longs().asList() }
        .filter { it.isNotEmpty() && !(it.size == 1 && it[0] in ends) } // as in transformers

    init {
        val others = stated.members().keys.filter { it !in SERVED }
        if (others.isNotEmpty()) {
            throw ArtifactException(
                "the checkpoint's answers go through ${others.joinToString()}, which this client " +
                    "does not do",
                expected = SERVED.joinToString(),
                advice = "answer with PocketVLM's runtime",
            )
        }
    }

    /**
     * The token of an answer.
     *
     * @param ids so far, prompt and answer; an image token for each visual token.
     * @param prompt how many of them are the prompt's.
     * @param logits of the next token, which are changed.
     */
    fun pick(ids: List<Long>, prompt: Int, logits: FloatArray): Long {
        if (penalty != null) {
            for (id in ids.toSet()) if (id < logits.size) {
                val before = logits[id.toInt()]
                logits[id.toInt()] = if (before < 0) before * penalty else before / penalty
            }
        }
        if (runs > 0) repeating(ids).forEach { logits.rule(it) }
        for (word in words) {
            val begun = word.subList(0, word.size - 1)
            val long = ids.size >= begun.size
            if (long && ids.subList(ids.size - begun.size, ids.size) == begun) {
                logits.rule(word.last())
            }
        }
        if (ids.size - prompt < least) ends.forEach { logits.rule(it) }
        never.forEach { logits.rule(it) }
        if (ids.size == prompt) notFirst.forEach { logits.rule(it) }
        val token = largest(logits)
        if (!logits[token.toInt()].isFinite()) {
            throw EngineException(
                "the decoder's logits are not finite",
                advice = "try another decoder precision, or export again",
            )
        }
        return token
    }

    /** Ids that would complete a run of ids that occurred before. */
    private fun repeating(ids: List<Long>): List<Long> {
        if (ids.size < runs) return emptyList()
        val last = ids.subList(ids.size + 1 - runs, ids.size)
        return (0..ids.size - runs)
            .filter { ids.subList(it, it + runs - 1) == last }
            .map { ids[it + runs - 1] }
    }

    private companion object {
        val SERVED = setOf(
            "repetition_penalty",
            "no_repeat_ngram_size",
            "suppress_tokens",
            "begin_suppress_tokens",
            "bad_words_ids",
            "min_new_tokens",
        )
    }
}

private fun FloatArray.rule(out: Long) {
    if (out < size) this[out.toInt()] = Float.NEGATIVE_INFINITY
}

/** The token with the largest logit, the first of several. */
internal fun largest(logits: FloatArray): Long {
    var best = 0
    for (i in logits.indices) if (logits[i] > logits[best]) best = i
    return best.toLong()
}
