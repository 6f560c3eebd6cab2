// Knows what using.json says of an artifact, and which artifacts this client can answer from.
package io.pocketvlm

import java.io.File
import java.io.IOException

private const val FORMAT = 1
private const val MAX_BYTES = 64L shl 20
private const val MAX_LAYERS = 1024 // published decoders have some 100
private const val MAX_AXES = 16
private const val MAX_WIDTH = 1 shl 20
private const val MAX_TOKENS = 1 shl 26 // of a vocabulary, of a context

// What an artifact may need beyond the least, by the names of using.json.
private val SERVED = setOf(
    "stages",
    "scored_rows",
    "picture_ids",
    "prompt_in_one_run",
    "positions",
    "extras",
    "convolutions",
)

/** Which tokens of a sequence see those behind them. */
internal enum class Attention { CAUSAL, PICTURES, PROMPT }

/**
 * The facts of an artifact's folder.
 *
 * @property folder where its files lie.
 * @property data all of using.json.
 */
class Facts private constructor(val folder: File, internal val data: Json) {
    /** The checkpoint, as the export was asked for it. */
    val model: String = data["model"].text()

    /** Visual tokens that the vision graph of the default budget keeps of a picture or tile. */
    val visualTokens: Int = data["visual_tokens"].int()

    /** Visual tokens of a picture or tile before pruning, of the largest where sizes differ. */
    val patches: Int = data["patches"].int()

    /** Whether any smaller budget can be cut from what a graph keeps. */
    val nested: Boolean = data["nested"].flag()

    /** What else is worth knowing, a paragraph each. */
    val notes: List<String> = data["notes"].texts()

    /** Vision graphs: file by precision, by budget. */
    val visionGraphs: Map<Int, Map<String, String>> = data["vision"]["graphs"].members()
        .entries.associate { (budget, files) -> budget.toInt() to texts(files) }

    /** Decoder graphs: file by precision. */
    val decoderGraphs: Map<String, String> = texts(data["decoder"]["graphs"])

    internal val visionDefault = data["vision"]["default_precision"].text()
    internal val decoderDefault = data["decoder"]["default_precision"].text()
    internal val tables = texts(data["decoder"]["tables"])
    internal val extras = data.find("extras")?.texts() ?: emptyList()
    internal val imageToken = data["image_token_id"].long()
    internal val ends = data["eos_token_ids"].longs()
    internal val layers = size("layers", MAX_LAYERS)
    internal val kvHeads = data["kv_heads"].long()
    internal val headDim = data["head_dim"].long()
    internal val hidden = size("hidden", MAX_WIDTH)
    internal val vocab = size("vocab", MAX_TOKENS)
    internal val axes = size("axes", MAX_AXES)
    internal val firstPosition = data.find("first_position")?.long() ?: 0L
    internal val staged = data["stages"].items().isNotEmpty()
    internal val scored = data.find("scores")?.flag() ?: false
    internal val attention = when (val name = data.find("attention")?.text()) {
        null, "causal" -> Attention.CAUSAL
        "pictures" -> Attention.PICTURES
        "prompt" -> Attention.PROMPT
        else -> throw ArtifactException("tokens see each other by the rule $name, unknown here")
    }
    internal val convolutions =
        data.find("convolutions")?.get("layers")?.longs()?.map { it.toInt() } ?: emptyList()
    internal val stateWidth = data.find("convolutions")?.get("width")?.long() ?: 0L

    /** Tokens that a sequence may have. */
    val context: Int = size("context", MAX_TOKENS)

    /** The tokenizer's file. */
    val tokenizerFile: File get() = file(data["tokenizer"]["file"].text())

    /** A file of the folder by its name in using.json; names that lead elsewhere are refused. */
    fun file(name: String): File {
        val parts = name.split('/')
        if (parts.any { it.isEmpty() || it == "." || it == ".." || '\\' in it || ':' in it }) {
            throw ArtifactException("using.json names the file $name", advice = "export it again")
        }
        val file = File(folder, name)
        if (!file.isFile) {
            throw ArtifactException("$folder has no $name", advice = "copy the whole folder")
        }
        return file
    }

    private fun size(name: String, most: Int): Int = data[name].int().also {
        if (it !in 1..most) throw ArtifactException("$it $name", expected = "1 to $most")
    }

    private fun texts(json: Json) = json.members().mapValues { (_, each) -> each.text() }

    companion object {
        /** Reads using.json; raises [ArtifactException] where this client cannot answer from it. */
        fun read(folder: File): Facts {
            val data = parsed(File(folder, "using.json"))
            val format = data.find("format")?.long()
            if (format != FORMAT.toLong()) {
                throw ArtifactException(
                    "using.json has the format $format",
                    expected = "$FORMAT",
                    advice = "export the artifact again, or update this library",
                )
            }
            for ((name, words) in data["needs"].members()) if (name !in SERVED) {
                throw ArtifactException(
                    "this client cannot answer from ${data["model"].text()}: ${words.text()}",
                    advice = "answer with PocketVLM's runtime",
                )
            }
            return Facts(folder, data)
        }

        /** A JSON file of a folder; raises [ArtifactException]. */
        internal fun parsed(file: File): Json {
            if (!file.isFile || file.length() > MAX_BYTES) {
                throw ArtifactException(
                    "$file is not a file of an artifact",
                    advice = "give the folder that `pocketvlm export` has written",
                )
            }
            try {
                return Json.parse(file.readText(), file.name)
            } catch (error: IOException) {
                throw ArtifactException("$file cannot be read", cause = error)
            }
        }
    }
}
