// Knows Android's bitmaps: to pictures and back, upright, and what a budget keeps of them.
package io.pocketvlm.android

import android.content.ContentResolver
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.graphics.Canvas
import android.graphics.Color
import android.graphics.Rect
import android.graphics.RectF
import android.media.ExifInterface
import android.net.Uri
import io.pocketvlm.Area
import io.pocketvlm.Picture
import io.pocketvlm.PictureException
import io.pocketvlm.PictureReader
import java.io.File
import java.io.IOException
import java.io.InputStream

private const val MOST_PIXELS = 24_000_000L // 72 MB of samples; larger pictures are halved
private const val DIM = 0xA0

/** Reads the files of an artifact, such as its self-test's picture. */
object BitmapReader : PictureReader {
    override fun read(file: File): Picture = Bitmaps.read { file.inputStream() }
}

/** Bitmaps and pictures. */
object Bitmaps {
    /** An upright picture from a gallery or a camera; raises [PictureException]. */
    fun read(resolver: ContentResolver, uri: Uri): Picture = read {
        resolver.openInputStream(uri) ?: throw IOException("nothing at $uri")
    }

    /** As above; [open] is called several times, and each stream is closed. */
    fun read(open: () -> InputStream): Picture {
        try {
            val options = BitmapFactory.Options()
            options.inJustDecodeBounds = true
            open().use { BitmapFactory.decodeStream(it, null, options) }
            options.inJustDecodeBounds = false
            options.inSampleSize = 1
            while (pixels(options) > MOST_PIXELS) options.inSampleSize *= 2
            // Samples as they are in the file: multiplied by alpha they could not be told again.
            options.inPremultiplied = false
            val bitmap = open().use { BitmapFactory.decodeStream(it, null, options) }
                ?: throw PictureException("this is not a picture that Android can read")
            val orientation = open().use {
                ExifInterface(it).getAttributeInt(ExifInterface.TAG_ORIENTATION, 1)
            }
            return picture(bitmap).turned(orientation).also { bitmap.recycle() }
        } catch (error: IOException) {
            throw PictureException("the picture cannot be read (${error.message})")
        }
    }

    /** A bitmap as a picture, transparency on white. */
    fun picture(bitmap: Bitmap): Picture {
        val argb = IntArray(bitmap.width * bitmap.height)
        bitmap.getPixels(argb, 0, bitmap.width, 0, 0, bitmap.width, bitmap.height)
        return Picture.fromArgb(argb, bitmap.width, bitmap.height)
    }

    /** A picture as a bitmap to look at. */
    fun bitmap(picture: Picture): Bitmap {
        val argb = IntArray(picture.width * picture.height) {
            Color.rgb(
                picture.rgb[3 * it].toInt() and 0xff,
                picture.rgb[3 * it + 1].toInt() and 0xff,
                picture.rgb[3 * it + 2].toInt() and 0xff,
            )
        }
        return Bitmap.createBitmap(
            argb,
            picture.width,
            picture.height,
            Bitmap.Config.ARGB_8888,
        )
    }

    /** A bitmap with all dimmed but the parts that a budget keeps, see `Seen.areas`. */
    fun kept(bitmap: Bitmap, areas: List<Area>): Bitmap {
        val made = checkNotNull(bitmap.copy(Bitmap.Config.ARGB_8888, true))
        val canvas = Canvas(made)
        canvas.drawColor(Color.argb(DIM, 0, 0, 0))
        for (area in areas) {
            val part = Rect(
                area.x.toInt(),
                area.y.toInt(),
                (area.x + area.width).toInt(),
                (area.y + area.height).toInt(),
            )
            // What lies in the padding around a picture is not there to be drawn.
            if (part.intersect(0, 0, bitmap.width, bitmap.height)) {
                canvas.drawBitmap(bitmap, part, RectF(part), null)
            }
        }
        return made
    }

    private fun pixels(options: BitmapFactory.Options): Long {
        val sample = options.inSampleSize.toLong()
        return (options.outWidth / sample) * (options.outHeight / sample)
    }
}
