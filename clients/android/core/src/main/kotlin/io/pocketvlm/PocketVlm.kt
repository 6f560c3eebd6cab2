// Knows how an answer comes about: a picture encoded, a prompt prefilled, tokens decoded.
package io.pocketvlm

import ai.onnxruntime.OrtSession
import java.io.File
import java.util.concurrent.locks.ReentrantLock
import kotlin.concurrent.withLock

/** Ends an answer from another thread: at once where the prompt is still being read. */
class Cancellation {
    private var options: OrtSession.RunOptions? = null

    /** Whether [cancel] was called. */
    @Volatile
    var cancelled = false
        private set

    /** Ends the answer; what it has so far is returned. */
    @Synchronized
    fun cancel() {
        cancelled = true
        options?.setTerminate(true)
    }

    @Synchronized
    internal fun begin(): OrtSession.RunOptions = OrtSession.RunOptions().also {
        options = it
        if (cancelled) it.setTerminate(true)
    }

    @Synchronized
    internal fun end() {
        options?.close()
        options = null
    }
}

/** Why an answer has no further token. */
enum class Finish { END, LENGTH, CANCELLED }

/**
 * An answer.
 *
 * @property text of it, special tokens left out.
 * @property tokenIds of it, the end of sequence among them.
 * @property finish why it ends.
 * @property promptTokens that the prompt has, visual tokens among them.
 * @property cachedTokens of them that were not read again.
 * @property prefillMs milliseconds until the first token.
 * @property decodeMs milliseconds that all further tokens took.
 */
class Answer internal constructor(
    val text: String,
    val tokenIds: LongArray,
    val finish: Finish,
    val promptTokens: Int,
    val cachedTokens: Int,
    val prefillMs: Double,
    val decodeMs: Double,
)

/**
 * Which files are opened.
 *
 * @property visionPrecision of the vision graph; null is the artifact's default.
 * @property decoderPrecision of the decoder and its table; null is the artifact's default.
 * @property budget whose vision graph is opened; null is the default's.
 */
class Choice(
    val visionPrecision: String? = null,
    val decoderPrecision: String? = null,
    val budget: Int? = null,
)

/** Reads a PNG file into a picture: `BitmapReader` on Android, ImageIO elsewhere. */
fun interface PictureReader {
    /** An upright picture on white; raises [PictureException]. */
    fun read(file: File): Picture
}

/**
 * An artifact that answers questions about pictures.
 *
 * One answer at a time; others wait. Close it, and nothing that it gave needs closing.
 */
class PocketVlm private constructor(
    val facts: Facts,
    private val tokenizer: Tokenizer,
    private val engine: Engine,
    private val vision: Vision,
    private val decoder: Decoder,
    private val processors: Processors,
) : AutoCloseable {
    private val lock = ReentrantLock()
    private val layout = Layout.open(facts)
    private val prompts = Prompts(facts, tokenizer)
    private val sequence = decoder.sequence()
    /** Encodes a picture, which then serves any number of questions. */
    fun see(picture: Picture): Seen = lock.withLock { vision.see(layout.cut(picture)) }

    /**
     * Answers the last of some messages with the likeliest tokens.
     *
     * What the messages have in common with those before is not read again.
     *
     * @param messages a system text or none, then user, assistant, ..., user; see [Message].
     * @param budget visual tokens of each tile; null is all that the vision graph kept.
     * @param maxNewTokens tokens of the answer at most.
     * @param cancellation ends it early.
     * @param onText is given the text piece by piece, on the calling thread.
     */
    fun answer(
        messages: List<Message>,
        budget: Int? = null,
        maxNewTokens: Int = 256,
        cancellation: Cancellation = Cancellation(),
        onText: (String) -> Unit = {},
    ): Answer = lock.withLock {
        if (maxNewTokens < 1) {
            throw RequestException("maxNewTokens = $maxNewTokens", expected = "1 or more")
        }
        val picture = messages.firstNotNullOfOrNull { it.picture }
        val parts = parts(prompts.encode(messages), picture, budget)
        val stream = TextStream(tokenizer, onText)
        val generation = Generation(sequence, facts, processors, stream)
        try {
            generation.run(parts, maxNewTokens, cancellation)
        } finally {
            cancellation.end()
        }
    }

    /**
     * A conversation that remembers its turns.
     *
     * @param system what holds for all of it.
     * @param budget as of [answer], the same for every question.
     */
    fun chat(system: String? = null, budget: Int? = null): Chat = Chat(this, system, budget)

    /** Frees all sessions and caches. */
    override fun close() = lock.withLock {
        sequence.close()
        decoder.close()
        vision.close()
        engine.close()
        tokenizer.close()
    }

    private fun parts(ids: LongArray, seen: Seen?, budget: Int?): List<Part> {
        if (seen == null) return listOf(Part.Text(ids))
        return promptOf(ids, seen, budget ?: seen.budget, layout, facts)
    }

    companion object {
        /**
         * Opens a folder.
         *
         * @param folder a real folder; files in an app's assets are copied out first.
         * @param tokenizer made from [Facts.tokenizerFile]; closed with what is returned.
         * @param settings threads and the provider.
         * @param choice precisions and budget.
         * @param reader reads the self-test's picture. Needed where the provider is not the CPU:
         *     one that fails the self-test is refused.
         * @param selfTest whether the CPU must pass the self-test too.
         */
        fun load(
            folder: File,
            tokenizer: (Facts) -> Tokenizer,
            settings: EngineSettings = EngineSettings(),
            choice: Choice = Choice(),
            reader: PictureReader? = null,
            selfTest: Boolean = false,
        ): PocketVlm = refusing(folder) {
            val facts = Facts.read(folder)
            val layout = Layout.open(facts)
            val processors = Processors(facts)
            val opened = ArrayList<AutoCloseable>()
            try {
                val engine = Engine(settings).also { opened.add(it) }
                val steps = Steps(facts.data["picture"])
                val precision = choice.visionPrecision ?: facts.visionDefault
                val budget = choice.budget ?: facts.visualTokens
                val vision = Vision(facts, engine, steps, precision, budget).also { opened.add(it) }
                val reading = choice.decoderPrecision ?: facts.decoderDefault
                val decoder = Decoder(facts, engine, reading).also { opened.add(it) }
                if (selfTest || settings.provider !is Provider.Cpu) {
                    val graphs = SelfTest.Graphs(vision, budget, precision, decoder, reading)
                    SelfTest(facts, layout, reader).require(settings.provider.name, graphs) {
                        Vision(facts, engine, steps, precision, facts.visualTokens)
                    }
                }
                val made = tokenizer(facts).also { opened.add(it) }
                PocketVlm(facts, made, engine, vision, decoder, processors)
            } catch (error: Exception) {
                opened.asReversed().forEach { it.close() }
                throw error
            }
        }
    }
}

/** What [work] gives; facts of another form than an export writes become a refusal. */
private fun <T> refusing(folder: File, work: () -> T): T = try {
    work()
} catch (error: RuntimeException) {
    if (error is PocketVlmException || error is IllegalStateException) throw error
    val reason = "$folder is damaged ($error)"
    throw ArtifactException(reason, advice = "export it again", cause = error)
}

/** The tokens of one answer. */
private class Generation(
    private val sequence: Sequence,
    private val facts: Facts,
    private val processors: Processors,
    private val stream: TextStream,
) {
    private val ids = ArrayList<Long>()
    private val before = ArrayList<Long>() // ids of the prompt

    fun run(parts: List<Part>, most: Int, cancellation: Cancellation): Answer {
        val started = System.nanoTime()
        for (part in parts) when (part) {
            is Part.Text -> before.addAll(part.ids.asList())
            is Part.Rows -> repeat(part.size) { before.add(facts.imageToken) }
        }
        var (cached, first) = 0 to 0L
        var finish: Finish
        try {
            val options = cancellation.begin()
            val (logits, reused) = sequence.prefill(parts, options)
            cached = reused
            first = System.nanoTime()
            finish = push(logits, cancellation)
            while (finish == Finish.LENGTH && ids.size < most && sequence.length < facts.context) {
                finish = push(sequence.decode(ids.last(), options), cancellation)
            }
        } catch (error: EngineException) {
            if (!cancellation.cancelled) throw error
            finish = Finish.CANCELLED // the run itself was ended
        }
        val now = System.nanoTime()
        if (first == 0L) first = now
        val text = stream.finish()
        return Answer(
            text,
            ids.toLongArray(),
            finish,
            before.size,
            cached,
            (first - started) / 1e6,
            (now - first) / 1e6,
        )
    }

    private fun push(logits: FloatArray, cancellation: Cancellation): Finish {
        val token = processors.pick(before + ids, before.size, logits)
        ids.add(token)
        if (token in facts.ends) return Finish.END
        stream.push(token)
        return if (cancellation.cancelled) Finish.CANCELLED else Finish.LENGTH
    }
}

/** A conversation about one picture or none. */
class Chat internal constructor(
    private val vlm: PocketVlm,
    system: String?,
    private val budget: Int?,
) {
    private val turns = ArrayList<Message>(listOfNotNull(system?.let { Message.system(it) }))

    /** Its messages so far. */
    val messages: List<Message> get() = turns.toList()

    /** Asks; see [PocketVlm.answer]. A question that fails leaves the conversation as it was. */
    fun ask(
        question: String,
        picture: Seen? = null,
        maxNewTokens: Int = 256,
        cancellation: Cancellation = Cancellation(),
        onText: (String) -> Unit = {},
    ): Answer {
        val asked = turns + Message.user(question, picture)
        val answer = vlm.answer(asked, budget, maxNewTokens, cancellation, onText)
        turns.add(asked.last())
        turns.add(Message.assistant(answer.text.trim()))
        return answer
    }
}
