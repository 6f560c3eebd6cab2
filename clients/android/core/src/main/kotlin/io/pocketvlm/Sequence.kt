// Knows the decoder at work: a sequence of tokens and features, and its cache between runs.
package io.pocketvlm

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtSession

/** A part of a prompt. */
internal sealed class Part {
    abstract val size: Int

    class Text(val ids: LongArray) : Part() {
        override val size get() = ids.size
    }

    /**
     * Rows of one picture in one piece, from row [start] of [whole]; [kept] and [grid] where
     * positions follow from them.
     */
    class Rows(
        val number: Long,
        val whole: Int,
        val start: Int,
        override val size: Int,
        val features: FloatArray,
        val extras: Map<String, FloatArray>,
        val kept: IntArray?,
        val grid: TokenGrid?,
    ) : Part()
}

/** The graphs that every sequence of a decoder shares. */
internal class Decoder(
    private val facts: Facts,
    private val engine: Engine,
    precision: String,
) : AutoCloseable {
    private val graph: Graph
    private val table: Graph

    init {
        val file = facts.decoderGraphs[precision] ?: throw RequestException(
            "there is no decoder in $precision",
            expected = facts.decoderGraphs.keys.joinToString(" or "),
        )
        graph = engine.open(facts.file(file), "the decoder graph")
        table = try {
            engine.open(facts.file(facts.tables.getValue(precision)), "the embedding graph")
        } catch (error: PocketVlmException) {
            graph.close()
            throw error
        }
    }

    fun sequence() = Sequence(facts, engine, graph, table)

    override fun close() {
        graph.close()
        table.close()
    }
}

/** Tensors of a cache, and what frees them. */
private class Cache(val tensors: Map<String, OnnxTensor>, private val owner: AutoCloseable) :
    AutoCloseable {
    override fun close() = owner.close()
}

/**
 * A sequence with a cache. A prompt that begins as the sequence does is read from where they part.
 *
 * Not for two threads at a time.
 */
internal class Sequence(
    private val facts: Facts,
    private val engine: Engine,
    private val graph: Graph,
    private val table: Graph,
) : AutoCloseable {
    private var cache: Cache? = null

    // Of each token that is held what it is, and the position behind it.
    private val held = ArrayList<Long>()
    private val behind = ArrayList<Long>()

    private val names = (0 until facts.layers).flatMap { layer ->
        if (layer in facts.convolutions) {
            listOf("past_conv.$layer" to "present_conv.$layer")
        } else {
            listOf("key", "value").map {
                "past_key_values.$layer.$it" to "present.$layer.$it"
            }
        }
    }

    val length get() = held.size

    /** Logits after a whole prompt, and how many of its tokens the cache held already. */
    fun prefill(prompt: List<Part>, options: OrtSession.RunOptions?): Pair<FloatArray, Int> {
        val keys = prompt.flatMap { keysOf(it) }
        if (keys.size > facts.context) {
            throw RequestException(
                "the prompt has ${keys.size} tokens",
                expected = "at most ${facts.context}, which the model reads",
                advice = "ask for a smaller budget, or begin a new conversation",
            )
        }
        cut(reusable(keys))
        val cached = length
        return run(after(prompt, cached), options) to cached
    }

    /** Logits after one further token. */
    fun decode(token: Long, options: OrtSession.RunOptions?): FloatArray =
        run(listOf(Part.Text(longArrayOf(token))), options)

    /** Lets go of all that is held. */
    fun reset() {
        cache?.close()
        cache = null
        held.clear()
        behind.clear()
    }

    override fun close() = reset()

    private fun keysOf(part: Part): List<Long> = when (part) {
        is Part.Text -> part.ids.asList()
        // Never a token id, and another one for each row of each picture at each budget.
        is Part.Rows -> List(part.size) { i ->
            val row = (part.whole.toLong() shl 20) or (part.start + i).toLong()
            -1L - ((part.number shl 40) or row)
        }
    }

    /** How many tokens of a prompt can stay; its last is always read: its logits are needed. */
    private fun reusable(keys: List<Long>): Int {
        var common = 0
        while (common < minOf(length, keys.size - 1) && held[common] == keys[common]) common++
        val whole = common == length
        if (facts.staged || facts.attention == Attention.PROMPT) return 0
        if (!whole && facts.convolutions.isNotEmpty()) return 0 // a state cannot be cut back
        if (facts.axes > 1 || facts.attention == Attention.PICTURES) {
            // Never inside a picture: its tokens share a time, or see each other.
            while (common in 1 until keys.size && keys[common - 1] < 0 && keys[common] < 0) common--
        }
        return common
    }

    private fun cut(tokens: Int) {
        if (tokens == 0) return reset()
        if (tokens == length) return
        val old = cache ?: return reset()
        val made = LinkedHashMap<String, OnnxTensor>()
        val (heads, width) = facts.kvHeads.toInt() to facts.headDim.toInt()
        for ((name, tensor) in old.tensors) {
            val values = tensor.floatBuffer
            val kept = FloatArray(heads * tokens * width)
            for (head in 0 until heads) {
                values.position(head * length * width)
                values.get(kept, head * tokens * width, tokens * width)
            }
            made[name] = engine.floats(kept, 1, facts.kvHeads, tokens.toLong(), facts.headDim)
        }
        cache = Cache(made) { made.values.forEach { it.close() } }
        old.close()
        while (held.size > tokens) {
            held.removeAt(held.size - 1)
            behind.removeAt(behind.size - 1)
        }
    }

    /** Appends parts. What is held changes only where the run succeeds. */
    private fun run(parts: List<Part>, options: OrtSession.RunOptions?): FloatArray {
        val n = parts.sumOf { it.size }
        val positions = Positions(facts, behind.lastOrNull() ?: facts.firstPosition)
        parts.forEach { positions.add(it) }
        val given = inputs(parts, n, positions)
        val past = cache ?: beginning()
        val result = try {
            graph.run(given + past.tensors, setOf("logits") + names.map { it.second }, options)
        } catch (error: EngineException) {
            if (past !== cache) past.close()
            throw error
        } finally {
            given.values.forEach { it.close() }
        }
        past.close()
        cache = Cache(names.associate { (before, now) -> before to result.tensor(now) }, result)
        parts.forEach { held.addAll(keysOf(it)) }
        behind.addAll(positions.behind)
        val logits = result.floats("logits")
        if (logits.size != facts.vocab) {
            throw EngineException(
                "the decoder gave ${logits.size} logits",
                expected = "${facts.vocab}",
                advice = "files of two artifacts are mixed",
            )
        }
        return logits
    }

    private fun beginning(): Cache {
        val tensors = names.associate { (before, _) ->
            before to if (before.startsWith("past_conv.")) {
                val size = facts.hidden * facts.stateWidth.toInt()
                engine.floats(FloatArray(size), 1, facts.hidden.toLong(), facts.stateWidth)
            } else {
                engine.floats(FloatArray(0), 1, facts.kvHeads, 0, facts.headDim)
            }
        }
        return Cache(tensors) { tensors.values.forEach { it.close() } }
    }

    private fun inputs(parts: List<Part>, n: Int, positions: Positions): Map<String, OnnxTensor> {
        val count = n.toLong()
        val given = LinkedHashMap<String, OnnxTensor>()
        val hidden = facts.hidden.toLong()
        given["inputs_embeds"] = engine.floats(embeddings(parts, n), 1, count, hidden)
        val axes = if (facts.axes == 1) longArrayOf() else longArrayOf(facts.axes.toLong())
        given["position_ids"] = engine.longs(positions.planes(), *axes, 1, count)
        if (!facts.staged) {
            val mask = LongArray(length + n) { 1 }
            given["attention_mask"] = engine.longs(mask, 1, mask.size.toLong())
        }
        if (facts.staged || facts.attention != Attention.CAUSAL) {
            given["picture_ids"] = engine.longs(pictureIds(parts, n), 1, count)
        }
        if (facts.scored) given["scored_rows"] = engine.longs(LongArray(0), 0)
        for (name in facts.extras) {
            given[name] = engine.floats(further(parts, n, name), 1, count, hidden)
        }
        return given
    }

    /** 0 for text, for a picture its number from 1; of a prompt that sees itself all 1. */
    private fun pictureIds(parts: List<Part>, n: Int): LongArray {
        if (facts.attention == Attention.PROMPT) return LongArray(n) { if (n > 1) 1 else 0 }
        val ids = LongArray(n)
        var (at, pictures) = 0 to 0L
        var last = -1L
        for (part in parts) {
            if (part is Part.Rows) {
                if (part.number != last || part.start == 0) pictures++
                last = part.number
                ids.fill(pictures, at, at + part.size)
            }
            at += part.size
        }
        return ids
    }

    private fun embeddings(parts: List<Part>, n: Int): FloatArray {
        val hidden = facts.hidden
        val made = FloatArray(n * hidden)
        val text = parts.filterIsInstance<Part.Text>().flatMap { it.ids.asList() }.toLongArray()
        val rows = lookUp(text)
        var (at, used) = 0 to 0
        for (part in parts) {
            when (part) {
                is Part.Rows -> part.features.copyInto(made, at * hidden)
                is Part.Text -> {
                    val end = used + part.size
                    rows.copyInto(made, at * hidden, used * hidden, end * hidden)
                    used = end
                }
            }
            at += part.size
        }
        return made
    }

    private fun lookUp(ids: LongArray): FloatArray {
        if (ids.isEmpty()) return FloatArray(0)
        return engine.longs(ids, 1, ids.size.toLong()).use { given ->
            table.run(mapOf("input_ids" to given), setOf("inputs_embeds")).use {
                it.floats("inputs_embeds")
            }
        }
    }

    private fun further(parts: List<Part>, n: Int, name: String): FloatArray {
        val made = FloatArray(n * facts.hidden) // zeros for text
        var at = 0
        for (part in parts) {
            if (part is Part.Rows) part.extras.getValue(name).copyInto(made, at * facts.hidden)
            at += part.size
        }
        return made
    }

    /** A prompt without its first tokens. */
    private fun after(prompt: List<Part>, tokens: Int): List<Part> {
        var left = tokens
        return prompt.mapNotNull { part ->
            val skipped = minOf(left, part.size)
            left -= skipped
            if (skipped == part.size) null else if (skipped == 0) part else rest(part, skipped)
        }
    }

    private fun rest(part: Part, skipped: Int): Part = when (part) {
        is Part.Text -> Part.Text(part.ids.copyOfRange(skipped, part.size))
        is Part.Rows -> {
            fun from(values: FloatArray) = values.copyOfRange(skipped * facts.hidden, values.size)
            Part.Rows(
                part.number,
                part.whole,
                part.start + skipped,
                part.size - skipped,
                from(part.features),
                part.extras.mapValues { (_, values) -> from(values) },
                kept = null,
                grid = null,
            )
        }
    }
}
