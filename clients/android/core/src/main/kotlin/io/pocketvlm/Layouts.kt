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
 * @property tiles in the order of the prompt.
 * @property rows of the tiles that are parts of the picture.
 * @property columns of the tiles that are parts of the picture.
 * @property whole whether a further tile, the last, shows the whole picture.
 * @property tokens of each tile.
 * @property wholeTokens of the last tile where its size is another than that of the parts.
 */
class Cut(
    val tiles: List<Tile>,
    val rows: Int,
    val columns: Int,
    val whole: Boolean,
    val tokens: TokenGrid,
    val wholeTokens: TokenGrid? = null,
) {
    /** Visual tokens of all tiles, before pruning. */
    val allTokens: Int get() = tiles.indices.sumOf { grid(it).tokens }

    /** Rows and columns of the visual tokens of a tile. */
    fun grid(tile: Int): TokenGrid =
        wholeTokens?.takeIf { whole && tile == tiles.size - 1 } ?: tokens

    /** Numbers of tiles of one size, for each of which the vision graph runs once. */
    internal val batches: List<IntRange>
        get() = if (wholeTokens == null) listOf(tiles.indices) else {
            listOf(0 until tiles.size - 1, tiles.size - 1 until tiles.size)
        }

    /** The part of the original picture that a visual token of a tile was made of. */
    fun area(tile: Int, index: Int): Area {
        val (of, grid) = tiles[tile].area to grid(tile)
        val (width, height) = of.width / grid.columns to of.height / grid.rows
        val (row, column) = index / grid.columns to index % grid.columns
        return Area(of.x + column * width, of.y + row * height, width, height)
    }
}

/** One way from a picture to tiles, and from their tokens to slots of a prompt. */
interface Layout {
    /** The tiles of a picture; raises [PictureException] for one that is too narrow. */
    fun cut(picture: Picture): Cut

    /** Token ids in a picture's place, an image token for each of the [kept] tokens of a tile. */
    fun slots(cut: Cut, kept: List<Int>): LongArray

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
    "tiles-and-thumbnail" to ::TilesAndThumbnail,
)

private fun repeated(token: Long, count: Int) = LongArray(count) { token }

private fun Json.idsOf(name: String) = find(name)?.longs() ?: LongArray(0)

/** Rows and columns of square patches; one row where they are not such a grid. */
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

    override fun slots(cut: Cut, kept: List<Int>) = repeated(slot, kept.single())
}

/** Qwen2-VL's and LFM2-VL's: one tile of about the picture's own size, in whole tokens. */
private open class DynamicSize(
    layout: Json,
    protected val slot: Long,
    protected val steps: Steps,
) : Layout {
    protected val options = layout["options"]

    // Of those that mark a picture no edge is rounded down to nothing.
    private val least = if (options.find("before") == null) 0 else options["factor"].int()
    protected val factor = options["factor"].int()
    private val fixed = options.find("size")?.longs()
    private val mostAspect = layout["figures"]["most_aspect"].long()
    private val patches = layout["patches"].int()
    protected val before = options.idsOf("before")
    protected val after = options.idsOf("after")

    override fun cut(picture: Picture): Cut {
        val tile = whole(picture)
        return Cut(listOf(tile), 1, 1, false, gridOf(tile.picture))
    }

    override fun slots(cut: Cut, kept: List<Int>) = before + repeated(slot, kept.single()) + after

    protected fun whole(picture: Picture): Tile {
        val (height, width) = size(picture.height, picture.width)
        return Tile(picture.resize(width, height, steps.filter), areaOf(picture))
    }

    protected fun gridOf(tile: Picture) = TokenGrid(tile.height / factor, tile.width / factor)

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

private fun areaOf(picture: Picture) =
    Area(0.0, 0.0, picture.width.toDouble(), picture.height.toDouble())

/** (rows, columns) nearest to a picture's proportions; of several the first, or the last filled. */
private fun nearest(picture: Picture, shapes: List<Pair<Int, Int>>, tile: Double): Pair<Int, Int> {
    val aspect = picture.width.toDouble() / picture.height
    fun far(shape: Pair<Int, Int>) = Math.abs(aspect - shape.second.toDouble() / shape.first)
    val least = shapes.minOf { far(it) }
    val near = shapes.filter { far(it) == least }
    val area = picture.height.toDouble() * picture.width
    return near.drop(1).lastOrNull { (rows, columns) -> area > 0.5 * tile * rows * columns }
        ?: near.first()
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
        val (rows, columns) = nearest(picture, shapes, tall.toDouble() * wide)
        val canvas = picture.resize(wide * columns, tall * rows, steps.filter)
        val parts = partsOf(canvas, picture, tall, wide)
        if (rows * columns == 1) return Cut(parts, 1, 1, false, grid)
        val whole = Tile(picture.resize(wide, tall, steps.filter), areaOf(picture))
        return Cut(parts + whole, rows, columns, true, grid)
    }

    override fun slots(cut: Cut, kept: List<Int>) = before + repeated(slot, kept.sum()) + after
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
        val whole = Tile(canvas.resize(edge, edge, steps.filter), areaOf(picture))
        return Cut(parts + whole, rows, columns, true, grid)
    }

    override fun slots(cut: Cut, kept: List<Int>): LongArray {
        val marks = options["marks"]
        val around = marks["around"].longs()
        val slots = repeated(slot, kept.first()) // all tiles have one size
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

/** LFM2-VL's: a large picture in tiles, then the whole of it at a size of its own. */
private class TilesAndThumbnail(layout: Json, slot: Long, steps: Steps) :
    DynamicSize(layout, slot, steps) {
    private val edge = options["tile"].int()
    private val patch = options["patch"].int()
    private val cutAbove = options["cut_above"].long()
    private val thumbnail = options["thumbnail"].flag()
    private val shapes = layout["figures"]["grids"].items().map { shape ->
        shape.longs().let { (columns, rows) -> rows.toInt() to columns.toInt() }
    }

    override fun cut(picture: Picture): Cut {
        if (!isLarge(picture)) return super.cut(picture)
        val (rows, columns) = nearest(picture, shapes, edge.toDouble() * edge)
        val canvas = picture.resize(edge * columns, edge * rows, steps.filter)
        val parts = partsOf(canvas, picture, edge, edge)
        val grid = TokenGrid(edge / factor, edge / factor)
        if (!thumbnail) return Cut(parts, rows, columns, false, grid)
        val thumb = whole(picture)
        return Cut(parts + thumb, rows, columns, true, grid, gridOf(thumb.picture))
    }

    override fun slots(cut: Cut, kept: List<Int>): LongArray {
        if (cut.rows * cut.columns == 1) return super.slots(cut, kept)
        val names = options["parts"].items().map { row -> row.items().map { it.longs() } }
        var ids = before
        for (tile in 0 until cut.rows * cut.columns) {
            val name = names[tile / cut.columns][tile % cut.columns]
            ids += name + repeated(slot, kept[tile])
        }
        if (cut.whole) ids += options["whole"].longs() + repeated(slot, kept.last())
        return ids + after
    }

    private fun isLarge(picture: Picture): Boolean {
        if (shapes.isEmpty()) return false
        fun rounded(length: Int) =
            maxOf(patch.toLong(), Math.rint(length.toDouble() / factor).toLong() * factor)
        return rounded(picture.height) * rounded(picture.width) > cutAbove
    }
}
