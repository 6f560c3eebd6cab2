// Knows Idefics3's and SmolVLM's tiles: the picture cut into parts row by row, then the whole of
// it, each named in the prompt.

import Foundation

private let mostEdge = 4096  // transformers makes pictures smaller than that

struct NamedTilesLayout: Layout {
    let steps: Steps
    let tokens: TokenGrid
    /// Edge of a tile in pixels.
    let edge: Int
    let longestEdge: Int
    /// Whether pictures are cut at all.
    let splits: Bool
    /// Whether every picture is brought to the longest edge first.
    let resizes: Bool
    let marks: [String: [Int64]]
    /// The ids that name the part in each row and column.
    let names: [[[Int64]]]

    var isOneGrid: Bool { false }

    init(_ facts: Facts) throws {
        let options = facts.layout
        let words = ["around", "whole", "row_end", "last_row_end"]
        guard let longest = options.longestEdge, let splits = options.splits,
            let marks = options.marks, let names = options.parts,
            (1...4 * mostEdge).contains(longest), words.allSatisfy({ marks[$0] != nil }),
            facts.picture.size[0] == facts.picture.size[1]
        else { throw PocketVLMError.artifact("the layout does not name the parts of a picture") }
        steps = facts.picture
        tokens = try facts.grid()
        edge = facts.picture.size[0]
        longestEdge = longest
        self.splits = splits
        resizes = options.resizes ?? true
        self.marks = marks
        self.names = names
    }

    func cut(_ picture: Picture) throws -> Cut {
        let first = firstSize(height: picture.height, width: picture.width)
        let (height, width) = wholeTiles(first)
        var image = picture
        if resizes || first != (picture.height, picture.width) {  // each resize rounds to 8 bits
            image = image.resized(width: first.1, height: first.0, steps.filter)
        }
        image = image.resized(width: width, height: height, steps.filter)
        let (rows, columns) = (height / edge, width / edge)
        let grid = TileGrid(rows: rows, columns: columns, hasWhole: rows * columns > 1)
        var tiles = parts(of: image, height: edge, width: edge)
        if grid.hasWhole { tiles.append(image.resized(width: edge, height: edge, steps.filter)) }
        return Cut(tiles: tiles, areas: areas(of: picture, grid), grid: grid)
    }

    func tokenGrid(_ grid: TileGrid) -> TokenGrid { tokens }

    func expand(_ grid: TileGrid, kept: Int, slot: Int64) throws -> [Int64] {
        let slots = [Int64](repeating: slot, count: kept)
        let around = marks["around"] ?? []
        var ids: [Int64] = []
        if grid.hasWhole {
            guard names.count >= grid.rows,
                names.prefix(grid.rows).allSatisfy({ $0.count >= grid.columns })
            else {
                throw PocketVLMError.artifact(
                    "the layout names no part \(grid.rows)x\(grid.columns)")
            }
            for row in 0..<grid.rows {
                for column in 0..<grid.columns { ids += around + names[row][column] + slots }
                ids += marks[row == grid.rows - 1 ? "last_row_end" : "row_end"] ?? []
            }
        }
        return ids + around + (marks["whole"] ?? []) + slots + around
    }

    /// Height and width before the picture is brought to whole tiles, rounded as transformers does.
    private func firstSize(height: Int, width: Int) -> (Int, Int) {
        if !resizes && (!splits || max(height, width) <= longestEdge) { return (height, width) }
        let aspect = Double(width) / Double(height)
        func even(_ short: Int) -> Int { max(short + short % 2, 1) }
        let scaled =
            width >= height
            ? (even(Int(Double(longestEdge) / aspect)), longestEdge)
            : (longestEdge, even(Int(Double(longestEdge) * aspect)))
        return belowMost(scaled)
    }

    private func belowMost(_ size: (Int, Int)) -> (Int, Int) {
        let (height, width) = size
        let aspect = Double(width) / Double(height)
        if width >= height, width > mostEdge {
            return (max(Int(Double(mostEdge) / aspect), 1), mostEdge)
        }
        if height > width, height > mostEdge {
            return (mostEdge, max(Int(Double(mostEdge) * aspect), 1))
        }
        return size
    }

    private func wholeTiles(_ size: (Int, Int)) -> (Int, Int) {
        guard splits else { return (edge, edge) }
        let (height, width) = size
        let aspect = Double(width) / Double(height)
        if width >= height {
            let wide = up(width)
            return (up(Int(Double(wide) / aspect)), wide)
        }
        let tall = up(height)
        return (tall, up(Int(Double(tall) * aspect)))
    }

    private func up(_ length: Int) -> Int { (length + edge - 1) / edge * edge }
}
