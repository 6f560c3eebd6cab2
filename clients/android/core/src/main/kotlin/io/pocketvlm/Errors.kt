// Knows how refusals are worded: what was met, what was expected, what to do.
package io.pocketvlm

/**
 * A refusal or a failure, in one line for people.
 *
 * @property reason what is wrong.
 * @property expected what would be right; null where that does not help.
 * @property advice what to do about it; null where nothing is known.
 */
open class PocketVlmException(
    val reason: String,
    val expected: String? = null,
    val advice: String? = null,
    cause: Throwable? = null,
) : RuntimeException(line(reason, expected, advice), cause)

/** The folder is damaged, or needs what this client does not have. */
class ArtifactException(
    reason: String,
    expected: String? = null,
    advice: String? = null,
    cause: Throwable? = null,
) : PocketVlmException(reason, expected, advice, cause)

/** A picture that cannot be read as it is. */
class PictureException(reason: String, expected: String? = null, advice: String? = null) :
    PocketVlmException(reason, expected, advice)

/** A question, a budget or a setting that cannot be served. */
class RequestException(reason: String, expected: String? = null, advice: String? = null) :
    PocketVlmException(reason, expected, advice)

/** ONNX Runtime failed, or computes what it should not. */
class EngineException(
    reason: String,
    expected: String? = null,
    advice: String? = null,
    cause: Throwable? = null,
) : PocketVlmException(reason, expected, advice, cause)

private fun line(reason: String, expected: String?, advice: String?): String {
    val rest = listOfNotNull(expected?.let { "expected $it" }, advice)
    return if (rest.isEmpty()) reason else "$reason: ${rest.joinToString("; ")}"
}
