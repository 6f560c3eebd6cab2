// Knows the one screen of the app: choose a picture, ask, slide the budget, read the answer.
package io.pocketvlm.app

import android.app.Activity
import android.content.Intent
import android.graphics.Bitmap
import android.os.Bundle
import android.widget.Button
import android.widget.EditText
import android.widget.ImageView
import android.widget.LinearLayout
import android.widget.ScrollView
import android.widget.SeekBar
import android.widget.TextView
import io.pocketvlm.Cancellation
import io.pocketvlm.DjlTokenizer
import io.pocketvlm.Message
import io.pocketvlm.PocketVlm
import io.pocketvlm.PocketVlmException
import io.pocketvlm.Seen
import io.pocketvlm.android.Assets
import io.pocketvlm.android.Bitmaps
import java.util.concurrent.Executors

private const val CHOOSE = 1

/** The screen. The artifact lies in src/main/assets/model. */
class MainActivity : Activity() {
    // Models are opened and asked on one thread that is not the screen's.
    private val worker = Executors.newSingleThreadExecutor()
    private var cancellation = Cancellation()
    private var vlm: PocketVlm? = null
    private var seen: Seen? = null
    private var shown: Bitmap? = null

    private lateinit var picture: ImageView
    private lateinit var budget: SeekBar
    private lateinit var budgetText: TextView
    private lateinit var question: EditText
    private lateinit var answer: TextView

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(screen())
        work {
            val folder = Assets.copied(this, "model")
            vlm = PocketVlm.load(folder, { DjlTokenizer(it.tokenizerFile) })
            say("Choose a picture.")
        }
    }

    override fun onDestroy() {
        super.onDestroy()
        cancellation.cancel()
        worker.execute { vlm?.close() }
        worker.shutdown()
    }

    override fun onActivityResult(requestCode: Int, resultCode: Int, data: Intent?) {
        val uri = data?.data
        if (requestCode != CHOOSE || resultCode != RESULT_OK || uri == null) return
        work {
            val read = Bitmaps.read(contentResolver, uri)
            val bitmap = Bitmaps.bitmap(read)
            val made = vlm?.see(read)
            runOnUiThread {
                shown = bitmap
                seen = made
                budget.max = (made?.budget ?: 1) - 1
                budget.progress = budget.max
                draw()
            }
        }
    }

    private fun screen(): ScrollView {
        picture = ImageView(this).apply { adjustViewBounds = true }
        budgetText = TextView(this)
        budget = SeekBar(this).apply { setOnSeekBarChangeListener(Redraw()) }
        question = EditText(this).apply { hint = "What is in the picture?" }
        answer = TextView(this).apply { setTextIsSelectable(true) }
        val column = LinearLayout(this).apply { orientation = LinearLayout.VERTICAL }
        column.addView(button("Choose a picture") { choose() })
        listOf(picture, budgetText, budget, question).forEach { column.addView(it) }
        column.addView(button("Ask") { ask() })
        column.addView(button("Stop") { cancellation.cancel() })
        column.addView(answer)
        return ScrollView(this).apply { addView(column) }
    }

    private fun button(label: String, action: () -> Unit) = Button(this).apply {
        text = label
        setOnClickListener { action() }
    }

    private fun choose() {
        val intent = Intent(Intent.ACTION_GET_CONTENT).setType("image/*")
        startActivityForResult(intent, CHOOSE)
    }

    /** Kept parts bright and the rest dimmed: no graph is run. */
    private fun draw() {
        val (bitmap, made) = (shown ?: return) to (seen ?: return)
        val tokens = budget.progress + 1
        budgetText.text = getString(R.string.budget, tokens, made.cut.tokens.tokens)
        picture.setImageBitmap(Bitmaps.kept(bitmap, made.areas(tokens)))
    }

    private fun ask() {
        val made = seen ?: return say("Choose a picture first.")
        val asked = Message.user(question.text.toString(), made)
        val tokens = budget.progress + 1
        val own = Cancellation().also { cancellation = it }
        work {
            say("")
            vlm?.answer(listOf(asked), tokens, cancellation = own) { piece ->
                runOnUiThread { answer.append(piece) }
            }
        }
    }

    private fun work(task: () -> Unit) = worker.execute {
        try {
            task()
        } catch (error: PocketVlmException) {
            say(error.message.orEmpty())
        }
    }

    private fun say(text: String) = runOnUiThread { answer.text = text }

    private inner class Redraw : SeekBar.OnSeekBarChangeListener {
        override fun onProgressChanged(bar: SeekBar, progress: Int, fromUser: Boolean) = draw()

        override fun onStartTrackingTouch(bar: SeekBar) = Unit

        override fun onStopTrackingTouch(bar: SeekBar) = Unit
    }
}
