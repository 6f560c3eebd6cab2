// Knows pictures of about their own size and proportions, in whole tokens (Qwen2-VL, LFM2-VL).

import Foundation

struct AnySizeLayout: Layout {
    let steps: Steps
    /// Edge of a token in pixels.
    let factor: Int
    /// Height times width that pictures are resized between; nil where all have `fixed`.
    let area: ClosedRange<Int>?
    let fixed: (height: Int, width: Int)?
    /// Tokens of the largest picture.
    let most: Int
    /// Ids around a picture.
    let before: [Int64]
    let after: [Int64]
    /// Whether an edge that rounds to nothing is still a token.
    let isWideAllowed: Bool

    var isOneGrid: Bool { true }

    init(_ facts: Facts) throws {
        let options = facts.layout
        guard let factor = options.factor, (1...1024).contains(factor) else {
            throw PocketVLMError.artifact("the layout has no edge of a token")
        }
        self.factor = factor
        steps = facts.picture
        most = facts.patches
        before = options.before ?? []
        after = options.after ?? []
        isWideAllowed = options.name == "marked-resize"
        if let size = options.size {
            guard size.count == 2, size.allSatisfy({ $0 > 0 && $0 % factor == 0 }) else {
                throw PocketVLMError.artifact("the layout makes pictures of \(size) pixels")
            }
            fixed = (size[0], size[1])
            area = nil
            return
        }
        guard let least = options.minPixels, let largest = options.maxPixels,
            1 <= least, least <= largest, largest <= 1 << 25
        else { throw PocketVLMError.artifact("the layout does not say how large pictures are") }
        fixed = nil
        area = least...largest
    }

    func cut(_ picture: Picture) throws -> Cut {
        let (height, width) = try size(height: picture.height, width: picture.width)
        let image = picture.resized(width: width, height: height, steps.filter)
        let tokens = TokenGrid(rows: height / factor, columns: width / factor)
        return Cut(
            tiles: [image], areas: areas(of: picture, TileGrid()), grid: TileGrid(tokens: tokens))
    }

    func tokenGrid(_ grid: TileGrid) -> TokenGrid {
        grid.tokens ?? TokenGrid(rows: 1, columns: most)
    }

    func expand(_ grid: TileGrid, kept: Int, slot: Int64) throws -> [Int64] {
        let slots = min(kept, tokenGrid(grid).tokens)
        return before + [Int64](repeating: slot, count: slots) + after
    }

    /// Height and width that a picture is resized to, as transformers computes them.
    func size(height: Int, width: Int) throws -> (Int, Int) {
        if let fixed { return (fixed.height, fixed.width) }
        let (long, short) = (max(height, width), min(height, width))
        if isWideAllowed || long <= 200 * short, let size = near(height, width),
            (size.0 / factor) * (size.1 / factor) <= most, min(size.0, size.1) > 0
        {
            return size
        }
        throw PocketVLMError.picture(
            "a picture of \(width)x\(height) pixels is too narrow", advice: "crop it first")
    }

    private func near(_ height: Int, _ width: Int) -> (Int, Int)? {
        guard let area else { return nil }
        let edge = Double(factor)
        let least = isWideAllowed ? factor : 0
        let whole = { (pixels: Int) in
            max(least, Int((Double(pixels) / edge).rounded(.toNearestOrEven)) * factor)
        }
        let (tall, wide) = (whole(height), whole(width))
        if tall * wide > area.upperBound {
            let shrink = (Double(height * width) / Double(area.upperBound)).squareRoot()
            let down = { (pixels: Int) in
                max(factor, Int((Double(pixels) / shrink / edge).rounded(.down)) * factor)
            }
            return (down(height), down(width))
        }
        if tall * wide < area.lowerBound {
            let grow = (Double(area.lowerBound) / Double(height * width)).squareRoot()
            let up = { (pixels: Int) in Int((Double(pixels) * grow / edge).rounded(.up)) * factor }
            return (up(height), up(width))
        }
        return (tall, wide)
    }
}
