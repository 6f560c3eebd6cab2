// Knows how the rows of a picture fill its slots among the ids of a prompt.
package io.pocketvlm

/** A prompt whose one image token stands for [seen] at a budget, as parts of a sequence. */
internal fun promptOf(
    ids: LongArray,
    seen: Seen,
    budget: Int,
    layout: Layout,
    facts: Facts,
): List<Part> {
    val tiles = seen.narrow(budget)
    val alone = tiles.singleOrNull()
    val rows = Part.Rows(
        seen.number,
        tiles.sumOf { it.kept.size },
        0,
        tiles.sumOf { it.kept.size },
        joined(tiles.map { it.features }),
        facts.extras.associateWith { name -> joined(tiles.map { it.extras.getValue(name) }) },
        alone?.kept,
        seen.cut.tokens.takeIf { alone != null },
    )
    val at = ids.indexOf(facts.imageToken)
    val slots = layout.slots(seen.cut, tiles.map { it.kept.size })
    val all = ids.copyOfRange(0, at) + slots + ids.copyOfRange(at + 1, ids.size)
    return divided(all, rows, facts)
}

/** Stretches of text, and of rows in place of slots. */
private fun divided(ids: LongArray, rows: Part.Rows, facts: Facts): List<Part> {
    val parts = ArrayList<Part>()
    var (start, filled) = 0 to 0
    while (start < ids.size) {
        val slot = ids[start] == facts.imageToken
        var end = start
        while (end < ids.size && (ids[end] == facts.imageToken) == slot) end++
        if (slot) {
            parts.add(rows.part(filled, filled + end - start, facts.hidden))
            filled += end - start
        } else {
            parts.add(Part.Text(ids.copyOfRange(start, end)))
        }
        start = end
    }
    if (filled != rows.size) throw mismatch(filled, rows)
    return parts
}

private fun Part.Rows.part(from: Int, to: Int, hidden: Int): Part.Rows {
    if (from == 0 && to == size) return this
    if (to > size) throw mismatch(to, this)
    fun of(values: FloatArray) = values.copyOfRange(from * hidden, to * hidden)
    val further = extras.mapValues { (_, values) -> of(values) }
    return Part.Rows(number, whole, from, to - from, of(features), further, null, null)
}

private fun mismatch(slots: Int, rows: Part.Rows) =
    EngineException("$slots slots for ${rows.size} rows of features")

private fun joined(values: List<FloatArray>): FloatArray {
    val made = FloatArray(values.sumOf { it.size })
    var at = 0
    for (each in values) {
        each.copyInto(made, at)
        at += each.size
    }
    return made
}
