// Knows a picture as plain samples: upright, opaque, 8 bits for each of red, green and blue.
package io.pocketvlm

/** A rectangle in pixels, whose edges need not be whole. */
data class Area(val x: Double, val y: Double, val width: Double, val height: Double)

/**
 * An upright RGB picture.
 *
 * @property width in pixels.
 * @property height in pixels.
 * @property rgb red, green and blue of each pixel, row by row: 3 * width * height samples.
 */
class Picture(val width: Int, val height: Int, val rgb: ByteArray) {
    init {
        if (width < 1 || height < 1 || rgb.size.toLong() != 3L * width * height) {
            throw PictureException("${rgb.size} samples are not a picture of $width x $height")
        }
    }

    /** The sample of a pixel, 0 to 255; channel 0 is red. */
    fun sample(x: Int, y: Int, channel: Int): Int =
        rgb[3 * (y * width + x) + channel].toInt() and 0xff

    /** A part of it, black where that lies outside. */
    fun crop(left: Int, top: Int, newWidth: Int, newHeight: Int): Picture {
        val made = Picture(newWidth, newHeight, ByteArray(3 * newWidth * newHeight))
        made.paste(this, -left, -top)
        return made
    }

    /** Turned so that it is upright; [orientation] is EXIF's, 1 to 8, any other number is 1. */
    fun turned(orientation: Int): Picture {
        if (orientation !in 2..8) return this
        val last = width * height - 1
        val lowest = width * (height - 1)
        // Where its first pixel is taken from, and how far the next in a row and in a column are.
        val (origin, across, down) = when (orientation) {
            2 -> Triple(width - 1, -1, width)
            3 -> Triple(last, -1, -width)
            4 -> Triple(lowest, 1, -width)
            5 -> Triple(0, width, 1)
            6 -> Triple(lowest, -width, 1)
            7 -> Triple(last, -width, -1)
            else -> Triple(width - 1, width, -1)
        }
        val (w, h) = if (orientation >= 5) height to width else width to height
        val made = ByteArray(rgb.size)
        for (y in 0 until h) for (x in 0 until w) {
            val from = 3 * (origin + x * across + y * down)
            rgb.copyInto(made, 3 * (y * w + x), from, from + 3)
        }
        return Picture(w, h, made)
    }

    internal fun paste(other: Picture, left: Int, top: Int) {
        val from = maxOf(0, -left)
        val to = minOf(other.width, width - left)
        if (from >= to) return
        for (y in maxOf(0, -top) until minOf(other.height, height - top)) {
            val source = 3 * y * other.width
            val target = 3 * ((y + top) * width + left + from)
            other.rgb.copyInto(rgb, target, source + 3 * from, source + 3 * to)
        }
    }

    companion object {
        /** Pixels of a bitmap, not multiplied by their alpha, as a picture on white. */
        fun fromArgb(argb: IntArray, width: Int, height: Int): Picture {
            if (argb.size.toLong() != width.toLong() * height) {
                throw PictureException("${argb.size} pixels are not a picture of $width x $height")
            }
            val rgb = ByteArray(3 * argb.size)
            for (i in argb.indices) {
                val alpha = argb[i] ushr 24
                for (channel in 0 until 3) {
                    val sample = (argb[i] shr (16 - 8 * channel)) and 0xff
                    rgb[3 * i + channel] = onWhite(sample, alpha).toByte()
                }
            }
            return Picture(width, height, rgb)
        }

        /** A picture of one colour. */
        internal fun filled(width: Int, height: Int, colour: LongArray): Picture {
            val rgb = ByteArray(3 * width * height) { colour[it % 3].toByte() }
            return Picture(width, height, rgb)
        }
    }
}

/**
 * A sample over white, as Pillow's `alpha_composite` rounds it: weights of 7 further bits, and
 * divisions by 255 as `(x + (x >> 8)) >> 8`.
 */
private fun onWhite(sample: Int, alpha: Int): Int {
    if (alpha == 255) return sample
    if (alpha == 0) return 255
    val above = alpha * 128
    val below = 255 * 128 - above
    val mixed = sample * above + 255 * below + (0x80 shl 7)
    return ((mixed shr 8) + mixed shr 8) shr 7
}
