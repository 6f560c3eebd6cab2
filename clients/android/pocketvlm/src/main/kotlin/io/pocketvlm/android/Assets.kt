// Knows how an artifact gets out of an app's assets: ONNX Runtime opens files, not assets.
package io.pocketvlm.android

import android.content.Context
import android.content.res.AssetManager
import io.pocketvlm.ArtifactException
import java.io.File
import java.io.IOException

private const val FACTS = "using.json"

/** Folders of an app's assets as real folders. */
object Assets {
    /**
     * Copies an artifact's folder out of the assets, graphs and their weights beside each other.
     *
     * Nothing is copied where the same artifact lies there already. A copy that was interrupted is
     * begun again. Takes seconds for a large model: not for the main thread.
     *
     * @param folder in the assets, such as `"model"`.
     * @return the folder in the app's own files.
     */
    fun copied(context: Context, folder: String): File {
        val target = File(context.filesDir, folder)
        val parts = File(context.filesDir, "$folder.part")
        try {
            val facts = context.assets.open("$folder/$FACTS").use { it.readBytes() }
            val there = File(target, FACTS)
            if (there.isFile && there.readBytes().contentEquals(facts)) return target
            parts.deleteRecursively()
            copy(context.assets, folder, parts)
            target.deleteRecursively()
            if (!parts.renameTo(target)) throw IOException("$parts cannot be renamed")
        } catch (error: IOException) {
            throw ArtifactException(
                "the assets of this app have no whole $folder (${error.message})",
                advice = "copy the folder that `pocketvlm export` has written to " +
                    "src/main/assets/$folder, and mind the room on the device",
                cause = error,
            )
        }
        return target
    }

    private fun copy(assets: AssetManager, from: String, to: File) {
        val names = assets.list(from).orEmpty()
        if (names.isNotEmpty()) {
            names.forEach { copy(assets, "$from/$it", File(to, it)) }
            return
        }
        to.parentFile?.mkdirs()
        assets.open(from).use { source -> to.outputStream().use { source.copyTo(it) } }
    }
}
