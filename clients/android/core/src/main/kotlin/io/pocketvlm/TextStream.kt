// Knows how tokens become text one by one, in whole characters.
package io.pocketvlm

private const val UNKNOWN = '\ufffd' // what stands for bytes that are not a character yet

/** Gives out the text of an answer as far as later tokens cannot change it. */
internal class TextStream(private val tokenizer: Tokenizer, private val onText: (String) -> Unit) {
    private val ids = ArrayList<Long>()
    private var given = ""

    fun push(token: Long) {
        ids.add(token)
        val text = tokenizer.decode(ids.toLongArray())
        // A character may end in a later token: its first bytes alone are none.
        give(text.trimEnd(UNKNOWN))
    }

    /** The whole text. */
    fun finish(): String {
        val text = tokenizer.decode(ids.toLongArray())
        give(text)
        return text
    }

    private fun give(text: String) {
        if (text.length <= given.length || !text.startsWith(given)) return
        onText(text.substring(given.length))
        given = text
    }
}
