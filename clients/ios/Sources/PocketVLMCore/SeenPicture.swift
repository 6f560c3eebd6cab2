// Knows what the vision graph gave of a picture, and that any smaller budget needs no graph again.

import Foundation

/// A picture that was encoded: ask any number of questions about it, at any budget that its graph
/// serves.
public struct SeenPicture: Sendable {
    /// Of the original picture, in pixels.
    public let width: Int
    public let height: Int
    public let grid: TileGrid
    /// Most tokens that each tile keeps.
    public let budget: Int
    /// Tokens of each tile before pruning.
    public let patches: Int
    /// Whether smaller budgets are served.
    public let nested: Bool
    /// Milliseconds that preparing and encoding took.
    public let preprocessMs: Double
    public let visionMs: Double

    let id: UUID
    let tokens: TokenGrid
    let areas: [Area]
    let tiles: [SeenTile]
    let hidden: Int

    /// Of each tile the numbers of the tokens that are kept, in raster order.
    ///
    /// The highest scores are kept, of equal ones the lower row. No graph runs.
    ///
    /// - Parameter budget: tokens of each tile; nil is all that the graph kept.
    /// - Throws: `PocketVLMError` where the graph does not serve that budget.
    public func kept(budget: Int? = nil) throws -> [[Int]] {
        let rows = try self.rows(budget)
        return zip(tiles, rows).map { tile, rows in rows.map { tile.kept[$0] } }
    }

    /// The squares of what is kept, in pixels of the original picture, tile after tile. Of padding
    /// they lie beyond the picture.
    public func squares(budget: Int? = nil) throws -> [Area] {
        zip(areas, try kept(budget: budget)).flatMap { area, kept in
            kept.map { area.square($0, of: tokens) }
        }
    }

    /// Tokens that the decoder reads.
    public func visualTokens(budget: Int? = nil) throws -> Int {
        try kept(budget: budget).reduce(0) { $0 + $1.count }
    }

    /// Of each tile the rows of features that a budget keeps, ascending.
    func rows(_ budget: Int?) throws -> [[Int]] {
        let own = tiles.map(\.kept.count).max() ?? 0
        guard let budget, budget < own else {
            if let budget, budget > self.budget { throw refused(budget) }
            return tiles.map { Array(0..<$0.kept.count) }
        }
        guard budget >= 1, nested else { throw refused(budget) }
        return tiles.map { best($0.scores, budget) }
    }

    private func refused(_ budget: Int) -> PocketVLMError {
        .request(
            "budget \(budget)", expected: nested ? "1 to \(self.budget)" : "\(self.budget)",
            advice: "load the graph of a larger budget, or export one")
    }

    /// The features that a budget keeps: rows tile after tile, and further ones by name.
    func features(_ rows: [[Int]]) -> (rows: [Float], extras: [String: [Float]]) {
        let own = zip(tiles, rows).flatMap { taken($0.features, $1) }
        var extras: [String: [Float]] = [:]
        for name in tiles.first?.extras.keys.sorted() ?? [] {
            extras[name] = zip(tiles, rows).flatMap { taken($0.extras[name] ?? [], $1) }
        }
        return (own, extras)
    }

    private func taken(_ values: [Float], _ rows: [Int]) -> [Float] {
        if rows.count * hidden == values.count { return values }
        return rows.flatMap { values[$0 * hidden..<($0 + 1) * hidden] }
    }
}

/// What is kept of one tile.
struct SeenTile: Sendable {
    /// Numbers of the kept tokens, ascending.
    let kept: [Int]
    let scores: [Float]
    /// kept.count * hidden numbers.
    let features: [Float]
    let extras: [String: [Float]]
}

/// The rows of the highest scores, of equal ones the lower, ascending.
func best(_ scores: [Float], _ count: Int) -> [Int] {
    let ranked = scores.indices.sorted {
        scores[$0] != scores[$1] ? scores[$0] > scores[$1] : $0 < $1
    }
    return ranked.prefix(count).sorted()
}
