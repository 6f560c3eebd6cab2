// Knows InternVL's tiles: the picture squeezed onto the grid nearest to its own proportions, cut
// row by row, then the whole of it.

import Foundation

struct ClosestTilesLayout: Layout {
    let steps: Steps
    let tokens: TokenGrid
    let before: [Int64]
    let after: [Int64]
    /// Every grid, fewest tiles first, then fewest columns.
    private let grids: [TileGrid]

    var isOneGrid: Bool { false }

    init(_ facts: Facts) throws {
        let options = facts.layout
        guard let least = options.minTiles, let most = options.maxTiles, 1 <= least, least <= most,
            most <= 100
        else {
            throw PocketVLMError.artifact("the layout does not say how many tiles a picture has")
        }
        steps = facts.picture
        tokens = try facts.grid()
        before = options.before ?? []
        after = options.after ?? []
        let shapes = (1...most).flatMap { columns in
            (1...most / columns).map { rows in (rows: rows, columns: columns) }
        }
        grids = shapes.filter { $0.rows * $0.columns >= least }
            .sorted { ($0.rows * $0.columns, $0.columns) < ($1.rows * $1.columns, $1.columns) }
            .map {
                TileGrid(rows: $0.rows, columns: $0.columns, hasWhole: $0.rows * $0.columns > 1)
            }
    }

    func cut(_ picture: Picture) throws -> Cut {
        let grid = nearest(height: picture.height, width: picture.width)
        let (tall, wide) = (steps.size[0], steps.size[1])
        let canvas = picture.resized(
            width: wide * grid.columns, height: tall * grid.rows, steps.filter)
        var tiles = parts(of: canvas, height: tall, width: wide)
        if grid.hasWhole { tiles.append(picture.resized(width: wide, height: tall, steps.filter)) }
        return Cut(tiles: tiles, areas: areas(of: picture, grid), grid: grid)
    }

    /// The grid whose proportions are nearest; of several as near the last that the picture fills
    /// half of, or the first.
    func nearest(height: Int, width: Int) -> TileGrid {
        let aspect = Double(width) / Double(height)
        let distances = grids.map { abs(aspect - Double($0.columns) / Double($0.rows)) }
        let least = distances.min() ?? 0
        let near = zip(grids, distances).filter { $0.1 == least }.map(\.0)
        let tile = 0.5 * Double(steps.size[0] * steps.size[1])
        let filled = near.dropFirst().filter {
            Double(height * width) > tile * Double($0.rows) * Double($0.columns)
        }
        return filled.last ?? near[0]
    }

    func tokenGrid(_ grid: TileGrid) -> TokenGrid { tokens }

    func expand(_ grid: TileGrid, kept: Int, slot: Int64) throws -> [Int64] {
        before + [Int64](repeating: slot, count: kept * grid.tiles) + after
    }
}
