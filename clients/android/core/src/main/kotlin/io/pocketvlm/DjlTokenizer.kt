// Knows DJL's binding of Hugging Face's tokenizers.
package io.pocketvlm

import ai.djl.huggingface.tokenizers.HuggingFaceTokenizer
import java.io.File

/**
 * A tokenizer.json read by `ai.djl.huggingface:tokenizers`; on Android with
 * `ai.djl.android:tokenizer-native` of the same version.
 */
class DjlTokenizer(file: File) : Tokenizer {
    private val tokenizer = HuggingFaceTokenizer.newInstance(file.toPath(), OPTIONS)

    override fun encode(text: String, addSpecialTokens: Boolean): LongArray =
        tokenizer.encode(text, addSpecialTokens, false).ids

    override fun decode(ids: LongArray): String = tokenizer.decode(ids, true)

    override fun close() = tokenizer.close()

    private companion object {
        // Without these DJL cuts a prompt at 512 tokens.
        val OPTIONS = mapOf("truncation" to "false", "padding" to "false")
    }
}
