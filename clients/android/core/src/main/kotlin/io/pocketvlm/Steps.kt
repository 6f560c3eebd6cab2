// Knows how a picture or tile becomes numbers: pad, resize, crop, normalise.
package io.pocketvlm

private const val MAX_EDGE = 16_384 // a resize target beyond this is not a vision model's

/**
 * A prepared tile.
 *
 * @property picture what the vision graph reads, before it is normalised.
 * @property area what of the original picture it shows; padding lies outside of that.
 */
class Tile(val picture: Picture, val area: Area)

/**
 * The steps of a tile, as using.json states them under `picture`.
 *
 * @property filter by which every resize is done.
 */
class Steps internal constructor(facts: Json) {
    val filter: Filter = Filter.named(facts["resample"].text())
    private val padColour = facts.find("pad_colour")?.longs()
    private val shortestEdge = facts.find("shortest_edge")?.int()
    private val resizeTo = facts.find("resize_to")?.longs()
    private val cropTo = facts.find("crop_to")?.longs()
    private val values = samples(
        facts["scale"].double(),
        facts["mean"].floats(),
        facts["std"].floats(),
    )

    init {
        val pairs = listOfNotNull(resizeTo, cropTo).all { it.size == 2 }
        if (!pairs || (padColour != null && padColour.size != 3)) {
            throw ArtifactException("the steps of a picture are damaged", advice = "export again")
        }
    }

    /** A whole picture through all steps but the last; raises [PictureException]. */
    fun prepare(picture: Picture): Tile {
        var made = picture
        var area = Area(0.0, 0.0, picture.width.toDouble(), picture.height.toDouble())
        if (padColour != null) {
            val edge = maxOf(picture.width, picture.height)
            val left = (edge - picture.width) / 2
            val top = (edge - picture.height) / 2
            made = Picture.filled(edge, edge, padColour).also { it.paste(picture, left, top) }
            area = Area(-left.toDouble(), -top.toDouble(), edge.toDouble(), edge.toDouble())
        }
        target(made)?.let { (width, height) ->
            // The runtime never has a padded picture whole, and so goes along rows first.
            made = if (padColour == null) {
                made.resize(width, height, filter)
            } else {
                made.resizeRowsFirst(width, height, filter)
            }
        }
        return if (cropTo == null) Tile(made, area) else {
            crop(made, area, cropTo[0].toInt(), cropTo[1].toInt())
        }
    }

    /** Float32 (3, height, width) of a tile, channel by channel, written at [offset]. */
    fun normalise(tile: Picture, into: FloatArray, offset: Int) {
        val pixels = tile.width * tile.height
        for (channel in 0 until 3) {
            val of = values[channel]
            val to = offset + channel * pixels
            for (i in 0 until pixels) into[to + i] = of[tile.rgb[3 * i + channel].toInt() and 0xff]
        }
    }

    /** Width and height that a picture is resized to; null where it is not. */
    private fun target(picture: Picture): Pair<Int, Int>? {
        if (shortestEdge == null) return resizeTo?.let { it[1].toInt() to it[0].toInt() }
        val (width, height) = picture.width to picture.height
        val longer = shortestEdge.toLong() * maxOf(width, height)
        val longest = (longer.toDouble() / minOf(width, height)).toInt() // cut, not rounded
        if (longest > MAX_EDGE) {
            throw PictureException(
                "a picture of $width x $height is too narrow",
                advice = "crop it first",
            )
        }
        return if (width <= height) shortestEdge to longest else longest to shortestEdge
    }
}

/** The middle of a picture, black where it is smaller; odd remainders go as in transformers. */
private fun crop(picture: Picture, area: Area, height: Int, width: Int): Tile {
    val (wide, tall) = maxOf(width, picture.width) to maxOf(height, picture.height)
    val fits = width <= picture.width && height <= picture.height
    val padLeft = if (fits) 0 else (wide - picture.width + 1) / 2
    val padTop = if (fits) 0 else (tall - picture.height + 1) / 2
    val left = Math.floorDiv(picture.width - width, 2) + padLeft
    val top = Math.floorDiv(picture.height - height, 2) + padTop
    val right = minOf(left + width, wide)
    val bottom = minOf(top + height, tall)
    val (x, y) = maxOf(0, left) - padLeft to maxOf(0, top) - padTop
    val made = picture.crop(x, y, right - padLeft - x, bottom - padTop - y)
    val (across, down) = area.width / picture.width to area.height / picture.height
    val shown = Area(
        area.x + x * across,
        area.y + y * down,
        made.width * across,
        made.height * down,
    )
    return Tile(made, shown)
}

/** What each sample of each channel becomes: scaled in float64, the rest in float32. */
private fun samples(scale: Double, mean: FloatArray, std: FloatArray): Array<FloatArray> {
    if (mean.size != 3 || std.size != 3) {
        throw ArtifactException("${mean.size} channel statistics", expected = "3")
    }
    return Array(3) { channel ->
        FloatArray(256) { ((it * scale).toFloat() - mean[channel]) / std[channel] }
    }
}
