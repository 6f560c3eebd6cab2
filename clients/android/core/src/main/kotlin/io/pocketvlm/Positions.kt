// Knows how the tokens of a run are numbered: counted on, or by time, row and column (M-RoPE).
package io.pocketvlm

/**
 * Numbers of the tokens of one run.
 *
 * With several axes a token of text has the same number on all of them. A picture that begins at p
 * has p as its time, p + row and p + column; what follows goes on at p + max(rows, columns),
 * however many of its tokens were kept.
 */
internal class Positions(private val facts: Facts, private var next: Long) {
    private val numbers = List(facts.axes) { ArrayList<Long>() }

    /** The position behind each token. */
    val behind = ArrayList<Long>()

    fun add(part: Part) {
        if (part is Part.Rows && facts.axes > 1) addPicture(part) else repeat(part.size) {
            numbers.forEach { it.add(next) }
            behind.add(++next)
        }
    }

    /** All planes one after another. */
    fun planes(): LongArray = numbers.flatten().toLongArray()

    private fun addPicture(part: Part.Rows) {
        val (kept, grid) = part.kept to part.grid
        if (kept == null || grid == null || kept.size != part.size || facts.axes != 3) {
            throw ArtifactException(
                "a picture of ${part.size} tokens comes without their rows and columns",
                advice = "export it again",
            )
        }
        for (token in kept) {
            numbers[0].add(next)
            numbers[1].add(next + token / grid.columns)
            numbers[2].add(next + token % grid.columns)
        }
        next += maxOf(grid.rows, grid.columns)
        repeat(part.size) { behind.add(next) }
    }
}
