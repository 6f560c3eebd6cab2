// Knows what is asked of a tokenizer, whichever library it comes from.
package io.pocketvlm

/** Text to token ids and back, as tokenizer.json says. */
interface Tokenizer : AutoCloseable {
    /**
     * Ids of a text; special tokens that are spelt in it are read as such.
     *
     * @param addSpecialTokens whether those are added that the tokenizer itself puts around a text.
     */
    fun encode(text: String, addSpecialTokens: Boolean): LongArray

    /** The text of ids, special tokens left out. */
    fun decode(ids: LongArray): String

    override fun close() = Unit
}
