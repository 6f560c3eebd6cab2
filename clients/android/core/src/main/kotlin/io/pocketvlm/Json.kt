// Knows how JSON is read on any JVM: Android has org.json, others have nothing.
package io.pocketvlm

private const val MAX_DEPTH = 64

/**
 * A JSON value that says where it lies when it is not what was expected.
 *
 * Objects are maps in the order of the file, numbers are Long where they are whole, else Double.
 */
class Json private constructor(private val value: Any?, private val path: String) {
    /** A member of an object; [ArtifactException] where there is none. */
    operator fun get(name: String): Json = find(name) ?: throw wrong("$path has no $name")

    /** A member of an object; null where it is missing or null. */
    fun find(name: String): Json? {
        val member = (value as? Map<*, *> ?: throw wrong("$path is not an object"))[name]
        return if (member == null) null else Json(member, "$path.$name")
    }

    /** The members of an object, in order. */
    fun members(): Map<String, Json> {
        val members = value as? Map<*, *> ?: throw wrong("$path is not an object")
        return members.entries.associate { (name, each) ->
            name.toString() to Json(each, "$path.$name")
        }
    }

    /** The items of a list. */
    fun items(): List<Json> {
        val items = value as? List<*> ?: throw wrong("$path is not a list")
        return items.mapIndexed { number, each -> Json(each, "$path[$number]") }
    }

    /** A text. */
    fun text(): String = value as? String ?: throw wrong("$path is not a string")

    /** True or false. */
    fun flag(): Boolean = value as? Boolean ?: throw wrong("$path is neither true nor false")

    /** A whole number. */
    fun long(): Long = value as? Long ?: throw wrong("$path is not a whole number")

    /** A whole number of 32 bits. */
    fun int(): Int {
        val number = long()
        if (number != number.toInt().toLong()) throw wrong("$path is too large")
        return number.toInt()
    }

    /** A number. */
    fun double(): Double = (value as? Number ?: throw wrong("$path is not a number")).toDouble()

    /** A list of token ids or the like. */
    fun longs(): LongArray = items().map { it.long() }.toLongArray()

    /** A list of numbers as float32. */
    fun floats(): FloatArray = items().map { it.double().toFloat() }.toFloatArray()

    /** A list of texts. */
    fun texts(): List<String> = items().map { it.text() }

    private fun wrong(reason: String) = ArtifactException(reason, advice = "export it again")

    companion object {
        /** Reads a text; [name] is what refusals call it. Raises [ArtifactException]. */
        fun parse(text: String, name: String): Json = Json(Parser(text, name).whole(), name)
    }
}

private class Parser(private val text: String, private val name: String) {
    private var at = 0

    fun whole(): Any? {
        val value = value(0)
        space()
        if (at != text.length) throw damaged()
        return value
    }

    private fun value(depth: Int): Any? {
        if (depth > MAX_DEPTH) throw damaged()
        space()
        return when (peek()) {
            '{' -> members(depth)
            '[' -> items(depth)
            '"' -> string()
            't' -> word("true", true)
            'f' -> word("false", false)
            'n' -> word("null", null)
            else -> number()
        }
    }

    private fun members(depth: Int): Map<String, Any?> {
        val members = LinkedHashMap<String, Any?>()
        list('}') {
            space()
            val key = string()
            space()
            take(':')
            members[key] = value(depth + 1)
        }
        return members
    }

    private fun items(depth: Int): List<Any?> {
        val items = ArrayList<Any?>()
        list(']') { items.add(value(depth + 1)) }
        return items
    }

    private fun list(end: Char, each: () -> Unit) {
        at++ // the bracket
        space()
        if (peek() == end) {
            at++
            return
        }
        while (true) {
            each()
            space()
            if (peek() == end) break
            take(',')
        }
        at++
    }

    private fun string(): String {
        take('"')
        val made = StringBuilder()
        while (true) {
            val next = peek()
            at++
            when (next) {
                '"' -> return made.toString()
                '\\' -> made.append(escaped())
                else -> made.append(next)
            }
        }
    }

    private fun escaped(): Char {
        val kind = peek()
        at++
        return when (kind) {
            'n' -> '\n'
            't' -> '\t'
            'r' -> '\r'
            'b' -> '\b'
            'f' -> '\u000c'
            '"', '\\', '/' -> kind
            'u' -> {
                val code = text.fourFrom(at)?.toIntOrNull(16) ?: throw damaged()
                at += 4
                code.toChar()
            }
            else -> throw damaged()
        }
    }

    private fun number(): Number {
        val start = at
        while (at < text.length && text[at] in "+-.0123456789eE") at++
        val digits = text.substring(start, at)
        return digits.toLongOrNull() ?: digits.toDoubleOrNull() ?: throw damaged()
    }

    private fun word(word: String, value: Any?): Any? {
        if (!text.startsWith(word, at)) throw damaged()
        at += word.length
        return value
    }

    private fun take(expected: Char) {
        if (peek() != expected) throw damaged()
        at++
    }

    private fun peek(): Char = text.getOrNull(at) ?: throw damaged()

    private fun space() {
        while (at < text.length && text[at] in " \n\r\t") at++
    }

    private fun damaged() =
        ArtifactException("$name is damaged at character $at", advice = "export it again")
}

private fun String.fourFrom(at: Int): String? =
    if (at + 4 <= length) substring(at, at + 4) else null
