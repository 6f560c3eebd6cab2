// Knows Pillow's filters: two passes over 8-bit samples, with coefficients in fixed point.
package io.pocketvlm

import kotlin.math.PI
import kotlin.math.abs
import kotlin.math.cos
import kotlin.math.sin

private const val PRECISION_BITS = 32 - 8 - 2 // a sum of weighted samples stays within 32 bits

/** A filter by Pillow's name, with how far it reaches from its middle, in samples. */
enum class Filter(internal val support: Double, internal val weight: (Double) -> Double) {
    NEAREST(0.0, { 0.0 }),
    BOX(0.5, { if (it > -0.5 && it <= 0.5) 1.0 else 0.0 }),
    BILINEAR(1.0, { if (abs(it) < 1.0) 1.0 - abs(it) else 0.0 }),
    HAMMING(1.0, { hamming(abs(it)) }),
    BICUBIC(2.0, { bicubic(abs(it)) }),
    LANCZOS(3.0, { if (it >= -3.0 && it < 3.0) sinc(it) * sinc(it / 3) else 0.0 }),
    ;

    companion object {
        /** The filter that using.json names; raises [ArtifactException]. */
        fun named(name: String): Filter =
            entries.find { it.name.equals(name, ignoreCase = true) }
                ?: throw ArtifactException(
                    "the filter $name is unknown to this client",
                    expected = entries.joinToString { it.name.lowercase() },
                )
    }
}

private fun hamming(x: Double): Double = when {
    x == 0.0 -> 1.0
    x >= 1.0 -> 0.0
    // Pillow's constants are of single precision.
    else -> sin(PI * x) / (PI * x) * (0.54f.toDouble() + 0.46f.toDouble() * cos(PI * x))
}

/** Keys' cubic convolution with a = -1/2. */
private fun bicubic(x: Double): Double {
    val a = -0.5
    return when {
        x < 1.0 -> ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
        x < 2.0 -> (((x - 5.0) * x + 8.0) * x - 4.0) * a
        else -> 0.0
    }
}

private fun sinc(x: Double): Double = if (x == 0.0) 1.0 else sin(PI * x) / (PI * x)

/** A picture of another size, bit for bit as Pillow 13's `Image.resize` makes it. */
fun Picture.resize(newWidth: Int, newHeight: Int, filter: Filter): Picture {
    // The result of the first pass is rounded, so the order shows.
    val columnsFirst = newHeight < height && height - newHeight > 2 * (width - newWidth)
    return resized(newWidth, newHeight, filter, columnsFirst)
}

/** As [resize], along rows first whatever the sizes. */
internal fun Picture.resizeRowsFirst(newWidth: Int, newHeight: Int, filter: Filter): Picture =
    resized(newWidth, newHeight, filter, columnsFirst = false)

private fun Picture.resized(
    newWidth: Int,
    newHeight: Int,
    filter: Filter,
    columnsFirst: Boolean,
): Picture {
    if (newWidth < 1 || newHeight < 1) {
        throw PictureException("a picture of $width x $height is too narrow", advice = "crop it")
    }
    if (newWidth == width && newHeight == height) return this
    if (filter == Filter.NEAREST) return nearest(newWidth, newHeight)
    if (columnsFirst) return alongColumns(newHeight, filter).alongRows(newWidth, filter)
    return alongRows(newWidth, filter).alongColumns(newHeight, filter)
}

/** Of each sample of a result the samples that it is made of, and their weights. */
private class Weights(size: Int, newSize: Int, filter: Filter) {
    val first = IntArray(newSize)
    val values: Array<IntArray>

    init {
        val scale = size.toDouble() / newSize
        val stretch = maxOf(scale, 1.0)
        val support = filter.support * stretch
        values = Array(newSize) { at ->
            val centre = (at + 0.5) * scale
            val start = maxOf((centre - support + 0.5).toInt(), 0)
            val end = minOf((centre + support + 0.5).toInt(), size)
            first[at] = start
            val weights = DoubleArray(end - start) {
                filter.weight((it + start - centre + 0.5) * (1.0 / stretch))
            }
            fixed(weights)
        }
    }

    private fun fixed(weights: DoubleArray): IntArray {
        var sum = 0.0
        for (weight in weights) sum += weight
        return IntArray(weights.size) {
            val weight = if (sum == 0.0) weights[it] else weights[it] / sum
            val scaled = weight * (1 shl PRECISION_BITS)
            (if (weight < 0) scaled - 0.5 else scaled + 0.5).toInt()
        }
    }
}

private fun clipped(sum: Int): Byte = (sum shr PRECISION_BITS).coerceIn(0, 255).toByte()

private fun Picture.alongRows(newWidth: Int, filter: Filter): Picture {
    if (newWidth == width) return this
    val weights = Weights(width, newWidth, filter)
    val made = ByteArray(3 * newWidth * height)
    for (x in 0 until newWidth) {
        val values = weights.values[x]
        for (y in 0 until height) {
            val from = 3 * (y * width + weights.first[x])
            val to = 3 * (y * newWidth + x)
            for (channel in 0 until 3) {
                var sum = 1 shl (PRECISION_BITS - 1)
                for (i in values.indices) {
                    sum += (rgb[from + 3 * i + channel].toInt() and 0xff) * values[i]
                }
                made[to + channel] = clipped(sum)
            }
        }
    }
    return Picture(newWidth, height, made)
}

private fun Picture.alongColumns(newHeight: Int, filter: Filter): Picture {
    if (newHeight == height) return this
    val weights = Weights(height, newHeight, filter)
    val line = 3 * width
    val made = ByteArray(line * newHeight)
    val sums = IntArray(line)
    for (y in 0 until newHeight) {
        sums.fill(1 shl (PRECISION_BITS - 1))
        weights.values[y].forEachIndexed { i, weight ->
            val from = line * (weights.first[y] + i)
            for (x in 0 until line) sums[x] += (rgb[from + x].toInt() and 0xff) * weight
        }
        for (x in 0 until line) made[line * y + x] = clipped(sums[x])
    }
    return Picture(width, newHeight, made)
}

private fun Picture.nearest(newWidth: Int, newHeight: Int): Picture {
    val columns = places(width, newWidth)
    val rows = places(height, newHeight)
    val made = ByteArray(3 * newWidth * newHeight)
    for (y in 0 until newHeight) for (x in 0 until newWidth) {
        val from = 3 * (rows[y] * width + columns[x])
        rgb.copyInto(made, 3 * (y * newWidth + x), from, from + 3)
    }
    return Picture(newWidth, newHeight, made)
}

/** Added up step by step, as Pillow does: products would round otherwise. */
private fun places(size: Int, newSize: Int): IntArray {
    val scale = size.toDouble() / newSize
    var at = scale * 0.5
    return IntArray(newSize) { minOf(at.toInt(), size - 1).also { at += scale } }
}
