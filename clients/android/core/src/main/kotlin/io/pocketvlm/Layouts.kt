// Knows how a picture becomes tiles, and what stands in its place in a prompt.
package io.pocketvlm

import kotlin.math.ceil
import kotlin.math.floor
import kotlin.math.sqrt

private const val MAX_TILES = 100 // published models are read with 12 at most

/** Rows and columns of the visual tokens of a tile, before pruning. */
data class TokenGrid(val rows: Int, val columns: Int) {
    /** N, all of them. */
    val tokens: Int get() = rows * columns
}

/**
 * How a picture was cut.
 *
 * @property tiles in the order of the batch; all of one size.
 * @property rows of the tiles that are parts of the picture.
 * @property columns of the tiles that are parts of the picture.
 * @property whole whether a further tile, the last, shows the whole picture.
 * @property tokens of each tile.
 */
class Cut(
    val tiles: List<Tile>,
    val rows: Int,
    val columns: Int,
    val whole: Boolean,
    val tokens: TokenGrid,
) {
    /** The part of the original picture that a visual token of a tile was made of. */
    fun area(tile: Int, index: Int): Area {
        val of = tiles[tile].area
        val (width, height) = of.width / tokens.columns to of.height / tokens.rows
        val (row, column) = index / tokens.columns to index % tokens.columns
        return Area(of.x + column * width, of.y + row * height, width, height)
    }
}

/** One way from a picture to tiles, and from their tokens to slots of a prompt. */
interface Layout {
    /** The tiles of a picture; raises [PictureException] for one that is too narrow. */
    fun cut(picture: Picture): Cut

    /** Token ids in a picture's place, an image token for each of [kept] tokens a tile. */
    fun slots(cut: Cut, kept: Int): LongArray

    companion object {
        /** The layout that using.json names; one that is not served here is refused in words. */
        fun open(facts: Facts): Layout {
            val steps = Steps(facts.data["picture"])
            val layout = facts.data["layout"]
            val make = SERVED[layout["name"].text()] ?: throw ArtifactException(
                "pictures of this model are laid out as ${layout["name"].text()}, which this " +
                    "client does not do",
                expected = SERVED.keys.joinToString(" or "),
                advice = "answer with PocketVLM's runtime, or in a page",
            )
            return make(layout, facts.imageToken, steps)
        }
    }
}

private val SERVED: Map<String, (Json, Long, Steps) -> Layout> = mapOf(
    "single" to ::Single,
    "smart-resize" to ::DynamicSize,
    "marked-resize" to ::DynamicSize,
    "tiles" to ::ClosestTiles,
    "idefics3" to ::Idefics3,
)

private fun repeated(token: Long, count: Int) = LongArray(count) { token }

private fun Json.idsOf(name: String) = find(name)?.longs() ?: LongArray(0)

/** Rows and columns of square patches; one row where they are no such grid. */
private fun gridOf(layout: Json): TokenGrid {
    val (height, width) = layout["tile_size"].longs().map { it.toInt() }
    val patches = layout["patches"].int()
    val rows = Math.rint(sqrt(patches.toDouble() * height / width)).toInt()
    val square = rows >= 1 && patches % rows == 0 && rows * width == patches / rows * height
    return if (square) TokenGrid(rows, patches / rows) else TokenGrid(1, patches)
}

/** LLaVA-1.5's: the whole picture is the only tile. */
private class Single(layout: Json, private val slot: Long, private val steps: Steps) : Layout {
    private val grid = gridOf(layout)

    override fun cut(picture: Picture) = Cut(listOf(steps.prepare(picture)), 1, 1, false, grid)

    override fun slots(cut: Cut, kept: Int) = repeated(slot, kept)
}

/** Qwen2-VL's and LFM2-VL's: one tile of about the picture's own size, in whole tokens. */
private class DynamicSize(layout: Json, private val slot: Long, private val steps: Steps) : Layout {
    private val options = layout["options"]
    private val marked = layout["name"].text() == "marked-resize"
    private val factor = options["factor"].int()
    private val fixed = options.find("size")?.longs()
    private val mostAspect = layout["figures"]["most_aspect"].long()
    private val patches = layout["patches"].int()
    private val before = options.idsOf("before")
    private val after = options.idsOf("after")

    override fun cut(picture: Picture): Cut {
        val (height, width) = size(picture.height, picture.width)
        val whole = Area(0.0, 0.0, picture.width.toDouble(), picture.height.toDouble())
        val tile = Tile(picture.resize(width, height, steps.filter), whole)
        return Cut(listOf(tile), 1, 1, false, TokenGrid(height / factor, width / factor))
    }

    override fun slots(cut: Cut, kept: Int) = before + repeated(slot, kept) + after

    private fun size(height: Int, width: Int): Pair<Int, Int> {
        if (fixed != null) return fixed[0].toInt() to fixed[1].toInt()
        val fits = maxOf(height, width) <= mostAspect * minOf(height, width)
        val size = if (fits) near(height, width) else null
        if (size == null || size.first / factor * (size.second / factor) > patches) {
            throw PictureException(
                "a picture of $width x $height is too narrow",
                advice = "crop it first",
            )
        }
        return size
    }

    /** In this order, as transformers does, rounding included. */
    private fun near(height: Int, width: Int): Pair<Int, Int> {
        val least = if (marked) factor else 0
        val (smallest, largest) = options["min_pixels"].long() to options["max_pixels"].long()
        val area = height.toDouble() * width
        fun of(edge: Int, round: (Double) -> Double) = round(edge.toDouble()).toInt() * factor
        val tall = maxOf(least, of(height) { Math.rint(it / factor) })
        val wide = maxOf(least, of(width) { Math.rint(it / factor) })
        if (tall.toLong() * wide > largest) {
            val shrink = sqrt(area / largest)
            fun down(edge: Int) = maxOf(factor, of(edge) { floor(it / shrink / factor) })
            return down(height) to down(width)
        }
        if (tall.toLong() * wide < smallest) {
            val grow = sqrt(smallest / area)
            return of(height) { ceil(it * grow / factor) } to of(width) { ceil(it * grow / factor) }
        }
        return tall to wide
    }
}

private fun partsOf(canvas: Picture, picture: Picture, height: Int, width: Int): List<Tile> {
    val across = picture.width.toDouble() / canvas.width
    val down = picture.height.toDouble() / canvas.height
    return (0 until canvas.height step height).flatMap { y ->
        (0 until canvas.width step width).map { x ->
            val area = Area(x * across, y * down, width * across, height * down)
            Tile(canvas.crop(x, y, width, height), area)
        }
    }
}

/** InternVL's: squeezed onto the grid nearest to its own proportions, then the whole of it. */
private class ClosestTiles(layout: Json, private val slot: Long, private val steps: Steps) :
    Layout {
    private val options = layout["options"]
    private val grid = gridOf(layout)
    private val tall = layout["tile_size"].longs()[0].toInt()
    private val wide = layout["tile_size"].longs()[1].toInt()
    private val before = options.idsOf("before")
    private val after = options.idsOf("after")

    /** (rows, columns), fewest tiles first, then fewest columns. */
    private val shapes: List<Pair<Int, Int>> = run {
        val (least, most) = options["min_tiles"].int() to options["max_tiles"].int()
        if (least !in 1..most || most > MAX_TILES) {
            throw ArtifactException(
                "the layout cuts pictures into $least to $most tiles",
                expected = "1 to $MAX_TILES",
            )
        }
        (1..most).flatMap { columns -> (1..most / columns).map { it to columns } }
            .filter { (rows, columns) -> rows * columns >= least }
            .sortedWith(compareBy({ it.first * it.second }, { it.second }))
    }

    override fun cut(picture: Picture): Cut {
        val (rows, columns) = nearest(picture)
        val canvas = picture.resize(wide * columns, tall * rows, steps.filter)
        val parts = partsOf(canvas, picture, tall, wide)
        if (rows * columns == 1) return Cut(parts, 1, 1, false, grid)
        val all = Area(0.0, 0.0, picture.width.toDouble(), picture.height.toDouble())
        val whole = Tile(picture.resize(wide, tall, steps.filter), all)
        return Cut(parts + whole, rows, columns, true, grid)
    }

    override fun slots(cut: Cut, kept: Int) =
        before + repeated(slot, kept * cut.tiles.size) + after

    private fun nearest(picture: Picture): Pair<Int, Int> {
        val aspect = picture.width.toDouble() / picture.height
        fun far(shape: Pair<Int, Int>) =
            Math.abs(aspect - shape.second.toDouble() / shape.first)
        val least = shapes.minOf { far(it) }
        val near = shapes.filter { far(it) == least }
        val area = picture.height.toDouble() * picture.width
        return near.drop(1)
            .lastOrNull { (rows, columns) -> area > 0.5 * tall * wide * rows * columns }
            ?: near.first()
    }
}

/** Idefics3's and SmolVLM's: parts row by row, then the whole of it, each named in the prompt. */
private class Idefics3(layout: Json, private val slot: Long, private val steps: Steps) : Layout {
    private val options = layout["options"]
    private val grid = gridOf(layout)
    private val edge = layout["tile_size"].longs()[0].toInt()
    private val longest = options["longest_edge"].int()
    private val splits = options["splits"].flag()
    private val resizes = options.find("resizes")?.flag() ?: true
    private val mostEdge = layout["figures"]["most_edge"].int()

    override fun cut(picture: Picture): Cut {
        val (first, size) = firstSize(picture.height, picture.width).let { it to wholeTiles(it) }
        // Resized as often as transformers does: each resize rounds to 8 bits.
        val once = picture.resize(first.second, first.first, steps.filter)
        val canvas = once.resize(size.second, size.first, steps.filter)
        val (rows, columns) = size.first / edge to size.second / edge
        val parts = partsOf(canvas, picture, edge, edge)
        if (rows * columns == 1) return Cut(parts, 1, 1, false, grid)
        val all = Area(0.0, 0.0, picture.width.toDouble(), picture.height.toDouble())
        val whole = Tile(canvas.resize(edge, edge, steps.filter), all)
        return Cut(parts + whole, rows, columns, true, grid)
    }

    override fun slots(cut: Cut, kept: Int): LongArray {
        val marks = options["marks"]
        val around = marks["around"].longs()
        val slots = repeated(slot, kept)
        var ids = LongArray(0)
        if (cut.whole) {
            val names = options["parts"].items().map { row -> row.items().map { it.longs() } }
            for (row in 0 until cut.rows) {
                for (column in 0 until cut.columns) ids += around + names[row][column] + slots
                val end = if (row == cut.rows - 1) "last_row_end" else "row_end"
                ids += marks[end].longs()
            }
        }
        return ids + around + marks["whole"].longs() + slots + around
    }

    /** (height, width) of a picture before it is brought to whole tiles. */
    private fun firstSize(height: Int, width: Int): Pair<Int, Int> {
        if (!resizes && (!splits || maxOf(height, width) <= longest)) return height to width
        val aspect = width.toDouble() / height
        fun even(short: Int) = maxOf(short + short % 2, 1)
        val (tall, wide) = if (width >= height) {
            even((longest / aspect).toInt()) to longest
        } else {
            longest to even((longest * aspect).toInt())
        }
        return belowMost(tall, wide)
    }

    private fun belowMost(height: Int, width: Int): Pair<Int, Int> {
        val aspect = width.toDouble() / height
        return when {
            width >= height && width > mostEdge ->
                maxOf((mostEdge / aspect).toInt(), 1) to mostEdge
            height > width && height > mostEdge ->
                mostEdge to maxOf((mostEdge * aspect).toInt(), 1)
            else -> height to width
        }
    }

    /** (height, width) in whole tiles, in the order that transformers rounds. */
    private fun wholeTiles(size: Pair<Int, Int>): Pair<Int, Int> {
        if (!splits) return edge to edge
        val (height, width) = size
        val aspect = width.toDouble() / height
        if (width >= height) {
            val wide = up(width)
            return up((wide / aspect).toInt()) to wide
        }
        val tall = up(height)
        return tall to up((tall * aspect).toInt())
    }

    private fun up(length: Int) = (length + edge - 1) / edge * edge
}
