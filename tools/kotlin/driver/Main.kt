// Knows how a program asks the library: a line of JSON in, a line of JSON out.
package io.pocketvlm.driver

import ai.onnxruntime.Pipe
import ai.onnxruntime.providers.NNAPIFlags
import io.pocketvlm.Answer
import io.pocketvlm.Cancellation
import io.pocketvlm.Choice
import io.pocketvlm.Chat
import io.pocketvlm.DjlTokenizer
import io.pocketvlm.EngineSettings
import io.pocketvlm.Facts
import io.pocketvlm.Filter
import io.pocketvlm.Json
import io.pocketvlm.Layout
import io.pocketvlm.Message
import io.pocketvlm.Picture
import io.pocketvlm.PictureReader
import io.pocketvlm.PocketVlm
import io.pocketvlm.PocketVlmException
import io.pocketvlm.Provider
import io.pocketvlm.Seen
import io.pocketvlm.Steps
import io.pocketvlm.resize
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import javax.imageio.ImageIO

private val session = Session()

/** [command] starts the process at the other end of the stubs' pipe. */
fun main(command: Array<String>) {
    Pipe.connect(EnginePipe(command.asList()))
    generateSequence { readlnOrNull() }.forEach { line ->
        val answer = try {
            session.answer(Json.parse(line, "request"))
        } catch (error: PocketVlmException) {
            mapOf("kind" to error.javaClass.simpleName, "error" to error.message)
        }
        println(written(answer))
    }
}

private class Session {
    private var vlm: PocketVlm? = null
    private var chat: Chat? = null
    private val seen = ArrayList<Seen>()

    fun answer(request: Json): Map<String, Any?> = when (val name = request["op"].text()) {
        "resize" -> resized(request)
        "argb" -> fromArgb(request)
        "cut" -> cut(request)
        "load" -> load(request)
        "see" -> see(request)
        "kept" -> kept(request)
        "answer" -> asked(request)
        "chat" -> chatted(request)
        "close" -> close()
        else -> error("no such request: $name")
    }

    private fun resized(request: Json): Map<String, Any?> {
        val (width, height) = request["size"].longs().map { it.toInt() }
        val made = picture(request["picture"])
            .resize(width, height, Filter.named(request["filter"].text()))
        File(request["to"].text()).writeBytes(made.rgb)
        return emptyMap()
    }

    private fun fromArgb(request: Json): Map<String, Any?> {
        val bytes = ByteBuffer.wrap(File(request["file"].text()).readBytes())
        val pixels = bytes.order(ByteOrder.LITTLE_ENDIAN).asIntBuffer()
        val argb = IntArray(pixels.remaining()).also { pixels.get(it) }
        val made = Picture.fromArgb(argb, request["width"].int(), request["height"].int())
            .turned(request["orientation"].int())
        File(request["to"].text()).writeBytes(made.rgb)
        return mapOf("width" to made.width, "height" to made.height)
    }

    /** Pixels as the vision graph reads them, and the slots of two kept tokens a tile. */
    private fun cut(request: Json): Map<String, Any?> {
        val facts = Facts.read(File(request["folder"].text()))
        val layout = Layout.open(facts)
        val cut = layout.cut(picture(request["picture"]))
        val steps = Steps(facts.data["picture"])
        val pixels = cut.tiles.map { it.picture }.map { tile ->
            FloatArray(3 * tile.width * tile.height).also { steps.normalise(tile, it, 0) }
        }
        val bytes = ByteBuffer.allocate(4 * pixels.sumOf { it.size })
        bytes.order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer().also { all ->
            pixels.forEach { all.put(it) }
        }
        File(request["to"].text()).writeBytes(bytes.array())
        return mapOf(
            "sizes" to cut.tiles.map { listOf(it.picture.height, it.picture.width) },
            "tokens" to cut.tiles.indices.map { listOf(cut.grid(it).rows, cut.grid(it).columns) },
            "slots" to layout.slots(cut, cut.tiles.map { 2 }).asList(),
            "areas" to cut.tiles.indices.map { cut.area(it, 0) }.map { area ->
                listOf(area.x, area.y, area.width, area.height)
            },
        )
    }

    private fun load(request: Json): Map<String, Any?> {
        val provider = when (request.find("provider")?.text()) {
            null -> Provider.Cpu
            "xnnpack" -> Provider.Xnnpack(mapOf("intra_op_num_threads" to "1"))
            else -> Provider.Nnapi(setOf(NNAPIFlags.USE_FP16))
        }
        val choice = Choice(
            request.find("vision")?.text(),
            request.find("decoder")?.text(),
            request.find("budget")?.int(),
        )
        val settings = EngineSettings(request.find("threads")?.int(), provider)
        val test = request.find("test")?.flag() ?: false
        vlm = PocketVlm.load(
            File(request["folder"].text()),
            { DjlTokenizer(it.tokenizerFile) },
            settings,
            choice,
            PictureReader(::pngOf),
            test,
        )
        return mapOf("notes" to vlm!!.facts.notes)
    }

    private fun see(request: Json): Map<String, Any?> {
        seen.add(vlm!!.see(picture(request["picture"])))
        return mapOf("seen" to seen.size - 1, "budget" to seen.last().budget)
    }

    private fun kept(request: Json): Map<String, Any?> {
        val of = seen[request["seen"].int()]
        val budget = request.find("budget")?.int() ?: of.budget
        val areas = of.areas(budget).map { listOf(it.x, it.y, it.width, it.height) }
        return mapOf("kept" to of.kept(budget).map { it.asList() }, "areas" to areas)
    }

    private fun asked(request: Json): Map<String, Any?> {
        val messages = request["messages"].items().map { each ->
            val role = Message.Role.valueOf(each["role"].text().uppercase())
            Message(role, each["text"].text(), each.find("seen")?.let { seen[it.int()] })
        }
        val cancellation = Cancellation()
        val stop = request.find("cancel")?.int()
        if (stop == 0) cancellation.cancel()
        val pieces = ArrayList<String>()
        val most = request["most"].int()
        val answer = vlm!!.answer(messages, request.find("budget")?.int(), most, cancellation) {
            pieces.add(it)
            if (pieces.size == stop) cancellation.cancel()
        }
        return of(answer, pieces)
    }

    private fun chatted(request: Json): Map<String, Any?> {
        if (request.find("begin") != null) {
            chat = vlm!!.chat(request.find("system")?.text(), request.find("budget")?.int())
        }
        val pieces = ArrayList<String>()
        val picture = request.find("seen")?.let { seen[it.int()] }
        val answer = chat!!.ask(request["text"].text(), picture, request["most"].int()) {
            pieces.add(it)
        }
        return of(answer, pieces)
    }

    private fun of(answer: Answer, pieces: List<String>) = mapOf(
        "text" to answer.text,
        "token_ids" to answer.tokenIds.asList(),
        "finish" to answer.finish.name,
        "pieces" to pieces,
        "prompt_tokens" to answer.promptTokens,
        "cached_tokens" to answer.cachedTokens,
    )

    private fun close(): Map<String, Any?> {
        vlm?.close()
        vlm = null
        seen.clear()
        return mapOf("open" to Pipe.OPEN.get())
    }
}

private fun picture(json: Json) =
    Picture(json["width"].int(), json["height"].int(), File(json["file"].text()).readBytes())

private fun pngOf(file: File): Picture {
    val image = ImageIO.read(file)
    val argb = image.getRGB(0, 0, image.width, image.height, null, 0, image.width)
    return Picture.fromArgb(argb, image.width, image.height)
}

internal fun written(value: Any?): String = when (value) {
    is Map<*, *> -> value.entries.joinToString(",", "{", "}") { (name, each) ->
        "${written(name)}:${written(each)}"
    }
    is LongArray -> written(value.asList())
    is List<*> -> value.joinToString(",", "[", "]") { written(it) }
    is String -> value.map { escaped(it) }.joinToString("", "\"", "\"")
    else -> "$value"
}

private fun escaped(character: Char): String =
    if (character in ' '..'~' && character != '"' && character != '\\') {
        "$character"
    } else {
        "\\u%04x".format(character.code)
    }
