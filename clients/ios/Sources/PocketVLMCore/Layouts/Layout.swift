// Knows what a layout is: how a picture becomes tiles, the prompt's slots, and squares to draw.

import Foundation

/// Rows and columns of the visual tokens of a picture or tile, before pruning.
public struct TokenGrid: Sendable, Equatable {
    public let rows: Int
    public let columns: Int

    public var tokens: Int { rows * columns }
}

/// How a picture was cut into tiles.
public struct TileGrid: Sendable, Equatable {
    /// Of the tiles that are parts of the picture, in raster order.
    public let rows: Int
    public let columns: Int
    /// Whether a further tile behind them holds the whole picture, smaller.
    public let hasWhole: Bool
    /// Of each tile, where they follow from the picture.
    public let tokens: TokenGrid?

    init(rows: Int = 1, columns: Int = 1, hasWhole: Bool = false, tokens: TokenGrid? = nil) {
        self.rows = rows
        self.columns = columns
        self.hasWhole = hasWhole
        self.tokens = tokens
    }

    public var tiles: Int { rows * columns + (hasWhole ? 1 : 0) }
}

/// A rectangle in pixels of the original picture.
public struct Area: Sendable, Equatable {
    public let x: Double
    public let y: Double
    public let width: Double
    public let height: Double
}

/// A picture cut into tiles that are prepared, all of one size.
struct Cut {
    let tiles: [Picture]
    /// What each tile shows of the original picture; of padding it lies beyond the picture.
    let areas: [Area]
    let grid: TileGrid
}

/// One way from a picture to the features in a prompt. A new one is a type here and a line in
/// `openLayout`.
///
/// Rows of features fill the slots tile after tile; all layouts here do so.
protocol Layout: Sendable {
    /// Whether the decoder reads the tokens of a picture as one grid, in raster order.
    var isOneGrid: Bool { get }
    var steps: Steps { get }
    func cut(_ picture: Picture) throws -> Cut
    /// Rows and columns of the tokens of each tile.
    func tokenGrid(_ grid: TileGrid) -> TokenGrid
    /// The ids that replace a picture's image token, `slot` for each row of features.
    ///
    /// - Parameter kept: how many tokens each tile keeps.
    func expand(_ grid: TileGrid, kept: Int, slot: Int64) throws -> [Int64]
}

/// The layout of an artifact; refuses one that this client does not have.
func openLayout(_ facts: Facts) throws -> any Layout {
    let options = facts.layout
    try facts.picture.check()
    switch options.name {
    case "single": return SingleLayout(steps: facts.picture, tokens: try facts.grid())
    case "squared" where options.newline != true:
        return SingleLayout(steps: facts.picture, tokens: try facts.grid())
    case "smart-resize", "marked-resize": return try AnySizeLayout(facts)
    case "tiles": return try ClosestTilesLayout(facts)
    case "idefics3": return try NamedTilesLayout(facts)
    default:
        throw PocketVLMError.artifact(
            "this client does not cut pictures by the layout \(options.name)",
            expected: "single, smart-resize, marked-resize, tiles or idefics3",
            advice: "answer with pocketvlm's Python runtime, or `pocketvlm serve`")
    }
}

/// A picture is one tile, made by the steps alone.
struct SingleLayout: Layout {
    let steps: Steps
    let tokens: TokenGrid
    var isOneGrid: Bool { true }

    func cut(_ picture: Picture) throws -> Cut {
        Cut(
            tiles: [try steps.prepared(picture)], areas: [steps.area(of: picture)],
            grid: TileGrid())
    }

    func tokenGrid(_ grid: TileGrid) -> TokenGrid { tokens }

    func expand(_ grid: TileGrid, kept: Int, slot: Int64) throws -> [Int64] {
        [Int64](repeating: slot, count: kept)
    }
}

extension Steps {
    /// What the prepared picture shows of the original one.
    func area(of picture: Picture) -> Area {
        var (width, height) = (Double(picture.width), Double(picture.height))
        var (x, y) = (0.0, 0.0)
        if padColour != nil {
            let edge = max(picture.width, picture.height)
            x = -Double((edge - picture.width) / 2)
            y = -Double((edge - picture.height) / 2)
            (width, height) = (Double(edge), Double(edge))
        }
        guard let cropTo else { return Area(x: x, y: y, width: width, height: height) }
        // Pixels of the original for one of the resized picture.
        var (across, down) = (1.0, 1.0)
        if let edge = shortestEdge {
            across = min(width, height) / Double(edge)
            down = across
        } else if let resizeTo {
            (down, across) = (height / Double(resizeTo[0]), width / Double(resizeTo[1]))
        }
        let (cutHeight, cutWidth) = (Double(cropTo[0]) * down, Double(cropTo[1]) * across)
        return Area(
            x: x + (width - cutWidth) / 2, y: y + (height - cutHeight) / 2, width: cutWidth,
            height: cutHeight)
    }
}

extension Area {
    /// The square of a token, numbered row by row, of a tile that shows this area.
    func square(_ token: Int, of grid: TokenGrid) -> Area {
        let (across, down) = (width / Double(grid.columns), height / Double(grid.rows))
        return Area(
            x: x + Double(token % grid.columns) * across,
            y: y + Double(token / grid.columns) * down,
            width: across, height: down)
    }
}

/// The areas of tiles that a whole picture was cut into, row by row, and of the whole behind them.
func areas(of picture: Picture, _ grid: TileGrid) -> [Area] {
    let (width, height) = (Double(picture.width), Double(picture.height))
    let whole = Area(x: 0, y: 0, width: width, height: height)
    let tiles = TokenGrid(rows: grid.rows, columns: grid.columns)
    let parts = (0..<tiles.tokens).map { whole.square($0, of: tiles) }
    return grid.hasWhole ? parts + [whole] : parts
}

/// The tiles of a picture that has just the size of so many, row by row.
func parts(of canvas: Picture, height: Int, width: Int) -> [Picture] {
    stride(from: 0, to: canvas.height, by: height).flatMap { y in
        stride(from: 0, to: canvas.width, by: width).map { x in
            canvas.cropped(left: x, top: y, width: width, height: height)
        }
    }
}
