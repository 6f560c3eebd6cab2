// Knows how a conversation becomes token ids, by the fixed texts of the chat template.
package io.pocketvlm

/**
 * A message of a conversation.
 *
 * @property role who wrote it.
 * @property text what it says.
 * @property picture what a user's first message shows.
 */
class Message(val role: Role, val text: String, val picture: Seen? = null) {
    /** Who writes in a conversation; [SYSTEM] comes first or not at all. */
    enum class Role { SYSTEM, USER, ASSISTANT }

    companion object {
        /** What a person asks. */
        fun user(text: String, picture: Seen? = null) = Message(Role.USER, text, picture)

        /** What the model answered. */
        fun assistant(text: String) = Message(Role.ASSISTANT, text)

        /** What holds for the whole conversation. */
        fun system(text: String) = Message(Role.SYSTEM, text)
    }
}

/** Texts around what people write; Jinja is not needed on the device. */
internal class Prompts(private val facts: Facts, private val tokenizer: Tokenizer) {
    private val pieces = facts.data["pieces"]
    private val bos = facts.data["tokenizer"]["special_tokens"].find("bos_token")?.text()
    private val trims = pieces["trims"].flag()

    /** Ids of a conversation, an image token for its picture; raises [RequestException]. */
    fun encode(messages: List<Message>): LongArray {
        val text = written(messages)
        // No second one where the template has written it already.
        val adds = bos.isNullOrEmpty() || !text.startsWith(bos)
        val ids = tokenizer.encode(text, adds)
        val (placed, expected) = ids.count { it == facts.imageToken } to messages.count {
            it.picture != null
        }
        if (placed != expected) {
            throw RequestException(
                "the prompt has $placed places for $expected pictures",
                advice = "leave the token that stands for a picture out of the text",
            )
        }
        return ids
    }

    private fun written(messages: List<Message>): String {
        val system = messages.firstOrNull()?.takeIf { it.role == Message.Role.SYSTEM }
        val turns = if (system == null) messages else messages.drop(1)
        check(turns)
        val pictured = if (turns[0].picture == null) "" else "_picture"
        val kind = if (system == null) "question" else "system"
        val first = around("$kind$pictured")
        val text = StringBuilder(first[0])
        if (system != null) text.append(system.text.trimmed()).append(first[1])
        text.append(turns[0].text.trimmed())
        if (turns.size == 1) return text.append(first.last()).toString()
        val further = around("further")
        for (at in 1 until turns.size step 2) {
            // An answer begins where the template's own space ends.
            text.append(further[0]).append(turns[at].text.trim()).append(further[1])
            text.append(turns[at + 1].text.trimmed())
        }
        return text.append(further[2]).toString()
    }

    private fun check(turns: List<Message>) {
        val alternate = turns.size % 2 == 1 && turns.withIndex().all { (at, turn) ->
            turn.role == if (at % 2 == 0) Message.Role.USER else Message.Role.ASSISTANT
        }
        if (!alternate) {
            throw RequestException(
                "the messages do not alternate",
                expected = "a system text or none, then user, assistant, ..., user",
            )
        }
        if (turns.drop(1).any { it.picture != null }) {
            throw RequestException(
                "a picture comes after the first question",
                advice = "begin a new conversation for a new picture",
            )
        }
    }

    private fun around(name: String): List<String> = pieces.find(name)?.texts()
        ?: throw RequestException(
            "the chat template of this model does not write this conversation in a fixed way",
            expected = pieces.members().keys.minus(listOf("trims", "notes")).joinToString(),
            advice = "render chat_template.jinja where there is an engine for it",
        )

    private fun String.trimmed() = if (trims) trim() else this
}
