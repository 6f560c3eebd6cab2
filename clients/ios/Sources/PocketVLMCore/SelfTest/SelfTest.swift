// Knows whether a device computes as it should: the artifact's self-test, computed and compared.

import Foundation

/// A figure of a self-test, and what it may be.
private struct Figure {
    let name: String
    let value: Double
    let bound: Double
    let isLeast: Bool

    /// A figure that is not a number fails.
    var isSound: Bool { isLeast ? value >= bound : value <= bound }

    var words: String {
        let sign = isLeast ? ">=" : "<="
        return "\(name) \(brief(value)) (\(sign) \(brief(bound)))"
    }
}

/// A number in a few digits.
private func brief(_ value: Double) -> String { String(format: "%.4g", value) }

struct SelfTest {
    private let facts: Facts
    private let expected: Expected
    private let picture: Data

    /// Read the files of a folder; refuses one without a self-test.
    init(_ facts: Facts, _ folder: URL) throws {
        guard let files = facts.selfTest else {
            throw PocketVLMError.artifact(
                "\(facts.model) has no self-test to hold this device against",
                advice: "take the provider cpu, or export again with a self-test")
        }
        guard let name = files.pictures.first, files.pictures.count == 1,
            let picture = try? Data(contentsOf: folder.appendingPathComponent(name)),
            let data = try? Data(contentsOf: folder.appendingPathComponent(files.file))
        else {
            throw PocketVLMError.artifact(
                "the files of the self-test are missing", advice: "copy the whole folder")
        }
        do {
            expected = try JSONDecoder().decode(Expected.self, from: data)
        } catch {
            throw PocketVLMError.artifact("\(files.file) is damaged")
        }
        guard expected.version == 1 else {
            throw PocketVLMError.artifact(
                "the self-test has the version \(expected.version)", expected: "1",
                advice: "update this package")
        }
        self.facts = facts
        self.picture = picture
    }

    /// Compute and compare.
    ///
    /// - Parameter needsDecoder: whether it is refused where the test says nothing of the decoder.
    /// - Returns: what was measured, in words.
    /// - Throws: `PocketVLMError` of the kind engine where a figure is out of its bounds.
    func run(
        _ viewer: Viewer, _ graphs: TextGraphs, _ choice: Choice, needsDecoder: Bool,
        _ decode: (Data) throws -> Picture
    ) throws -> [String] {
        let tiles = try encode(viewer, decode)
        let seen = try visionFigures(tiles, choice)
        try check(seen, "the vision graph")
        let read = try decoderFigures(viewer, graphs, tiles, choice)
        if read.isEmpty, needsDecoder {
            throw saysNothing("the decoder behind \(choice.budget) tokens, load the default budget")
        }
        try check(read, "the decoder")
        return (seen + read).map(\.words)
    }

    private func check(_ figures: [Figure], _ what: String) throws {
        let wrong = figures.filter { !$0.isSound }
        guard wrong.isEmpty else {
            throw PocketVLMError.engine(
                "\(what) does not compute on this device what it should: "
                    + wrong.map(\.words).joined(separator: ", "),
                advice: "take the provider cpu")
        }
    }

    private func encode(_ viewer: Viewer, _ decode: (Data) throws -> Picture) throws -> [SeenTile] {
        let (stack, grid) = (try decode(picture), expected.grid.tiles)
        let height = stack.height / max(grid.tiles, 1)
        guard grid.tiles >= 1, grid.tiles * height == stack.height, height > 0 else {
            throw PocketVLMError.artifact("the picture of the self-test is not of its tiles")
        }
        let pixels = (0..<grid.tiles).flatMap { tile in
            facts.picture.normalised(
                stack.cropped(left: 0, top: tile * height, width: stack.width, height: height))
        }
        return try viewer.encode(
            pixels, tiles: grid.tiles, height: height, width: stack.width,
            patches: viewer.layout.tokenGrid(grid).tokens)
    }

    private func visionFigures(_ tiles: [SeenTile], _ choice: Choice) throws -> [Figure] {
        guard let vision = expected.vision.first(where: { $0.budget == choice.budget }),
            let bounds = vision.bounds[choice.visionPrecision], let batch = vision.batches.first,
            vision.batches.count == 1, batch.keptIndices.count == tiles.count
        else {
            throw saysNothing(
                "the vision graph of \(choice.budget) tokens in \(choice.visionPrecision)")
        }
        let pairs = try batch.samples.map { name, sample in
            try Pair(name, tiles, batch, sample, facts.hidden)
        }
        let (scores, features) = (pairs.filter(\.isScore), pairs.filter { !$0.isScore })
        var figures = [
            Figure(
                name: "kept", value: overlap(tiles, batch), bound: bounds.keptOverlap ?? 0,
                isLeast: true),
            Figure(
                name: "features",
                value: cosine(features.flatMap(\.ours), features.flatMap(\.theirs)),
                bound: bounds.cosine, isLeast: true),
        ]
        if let bound = bounds.difference {
            figures.append(
                Figure(name: "features differ", value: most(features), bound: bound, isLeast: false)
            )
            figures.append(
                Figure(name: "scores differ", value: most(scores), bound: bound, isLeast: false))
        }
        return figures
    }

    private func overlap(_ tiles: [SeenTile], _ batch: Expected.Batch) -> Double {
        var (shared, total) = (0, 0)
        for (tile, kept) in zip(tiles, batch.keptIndices) {
            shared += Set(tile.kept).intersection(kept).count
            total += max(kept.count, tile.kept.count)
        }
        return total == 0 ? .nan : Double(shared) / Double(total)
    }

    private func most(_ pairs: [Pair]) -> Double {
        pairs.map(\.difference).reduce(pairs.isEmpty ? Double.nan : 0) {
            $1.isNaN ? $1 : max($0, $1)
        }
    }

    private func decoderFigures(
        _ viewer: Viewer, _ graphs: TextGraphs, _ tiles: [SeenTile], _ choice: Choice
    ) throws -> [Figure] {
        // Bounds of decoders are those behind the default budget, which a larger graph serves too.
        let usual = facts.vision.defaultBudget
        guard choice.budget == usual || (facts.nested && choice.budget > usual) else { return [] }
        let wanted = expected.decoder
        let reader = wanted.bounds.first {
            $0.engine == "onnx" && $0.precision == choice.decoderPrecision
                && $0.vision == choice.visionPrecision
        }
        guard let bounds = reader?.bounds else {
            throw saysNothing("the decoder in \(choice.decoderPrecision)")
        }
        let rows = try logits(viewer, graphs, tiles)
        let ours = try rows.map { row in
            try wanted.columns.map { column in
                guard row.indices.contains(column) else { throw saysNothing("these logits") }
                return row[column]
            }
        }
        guard ours.count == wanted.logits.values.count,
            wanted.logits.values.allSatisfy({ $0.count == wanted.columns.count })
        else { throw saysNothing("the decoder's steps") }
        var figures = [
            Figure(
                name: "logits",
                value: cosine(ours.flatMap(centred), wanted.logits.values.flatMap(centred)),
                bound: bounds.cosine, isLeast: true)
        ]
        if let bound = bounds.difference {
            let scale = max(1, Double(wanted.logits.largest))
            let difference =
                furthest(ours.flatMap { $0 }, wanted.logits.values.flatMap { $0 }) / scale
            figures.append(
                Figure(name: "logits differ", value: difference, bound: bound, isLeast: false))
            let equal = rows.indices.filter { isToken(rows[$0], step: $0, near: 2 * bound * scale) }
            figures.append(
                Figure(
                    name: "tokens", value: Double(equal.count),
                    bound: Double(wanted.tokenIds.count),
                    isLeast: true))
        }
        return figures
    }

    /// Logits after the prompt, and after each token of the reference but the last.
    private func logits(_ viewer: Viewer, _ graphs: TextGraphs, _ tiles: [SeenTile]) throws
        -> [[Float]]
    {
        let grid = expected.grid.tiles
        let seen = SeenPicture(
            width: 1, height: 1, grid: grid, budget: viewer.budget,
            patches: viewer.layout.tokenGrid(grid).tokens, nested: facts.nested, preprocessMs: 0,
            visionMs: 0, id: UUID(), tokens: viewer.layout.tokenGrid(grid), areas: [], tiles: tiles,
            hidden: facts.hidden)
        let sequence = try DecoderSequence(graphs)
        let prompt = try viewer.segments(
            expected.promptIds, seen, budget: min(viewer.budget, facts.vision.defaultBudget))
        var rows = [try sequence.prefill(prompt).logits]
        for token in expected.decoder.tokenIds.dropLast() {
            rows.append(try sequence.decode(token))
        }
        return rows
    }

    /// Whether a step's highest logit is the reference's, or one that it prefers by no more than
    /// what two logits may differ.
    private func isToken(_ row: [Float], step: Int, near: Double) -> Bool {
        let ours = highest(row)
        if Int64(ours) == expected.decoder.tokenIds[step] { return true }
        let theirs = expected.decoder.logits.values[step]
        guard let at = expected.decoder.columns.firstIndex(of: ours), let top = theirs.max() else {
            return false
        }
        return Double(top) - Double(theirs[at]) <= near
    }

    private func saysNothing(_ what: String) -> PocketVLMError {
        .artifact("the self-test says nothing of \(what)")
    }
}

/// What a graph gave for sampled tokens that it kept too, and what is expected.
private struct Pair {
    let isScore: Bool
    private(set) var ours: [Float] = []
    private(set) var theirs: [Float] = []
    private let scale: Double

    init(
        _ name: String, _ tiles: [SeenTile], _ batch: Expected.Batch, _ sample: Expected.Sample,
        _ hidden: Int
    ) throws {
        isScore = name == "kept_scores"
        scale = isScore ? max(Double(sample.largest), 1e-6) : max(1, Double(sample.largest))
        for (place, wanted) in zip(batch.rows, sample.values) {
            guard place.count == 2, tiles.indices.contains(place[0]),
                let row = tiles[place[0]].kept.firstIndex(of: place[1])
            else { continue }
            let tile = tiles[place[0]]
            let values = name == "image_features" ? tile.features : tile.extras[name] ?? []
            let got =
                isScore
                ? [tile.scores[row]]
                : batch.columns.compactMap {
                    $0 < hidden && !values.isEmpty ? values[row * hidden + $0] : nil
                }
            guard got.count == wanted.count else {
                throw PocketVLMError.artifact("the self-test expects another number of \(name)")
            }
            ours += got
            theirs += wanted
        }
    }

    var difference: Double { ours.isEmpty ? .nan : furthest(ours, theirs) / scale }
}

private func furthest(_ ours: [Float], _ theirs: [Float]) -> Double {
    zip(ours, theirs).reduce(0) { most, pair in
        let difference = abs(Double(pair.0) - Double(pair.1))
        return difference.isNaN || most.isNaN ? .nan : max(most, difference)
    }
}

/// Logits less their mean: what a softmax sees.
private func centred(_ row: [Float]) -> [Double] {
    let mean = row.reduce(0) { $0 + Double($1) } / Double(max(row.count, 1))
    return row.map { Double($0) - mean }
}

private func cosine(_ ours: [Float], _ theirs: [Float]) -> Double {
    cosine(ours.map(Double.init), theirs.map(Double.init))
}

/// 0 of nothing; nothing but zeros is equal to nothing but zeros.
private func cosine(_ ours: [Double], _ theirs: [Double]) -> Double {
    func product(_ a: [Double], _ b: [Double]) -> Double {
        zip(a, b).reduce(0) { $0 + $1.0 * $1.1 }
    }
    if ours.isEmpty { return 0 }
    let length = (product(ours, ours) * product(theirs, theirs)).squareRoot()
    if length == 0 { return ours.allSatisfy({ $0 == 0 }) && theirs.allSatisfy({ $0 == 0 }) ? 1 : 0 }
    return product(ours, theirs) / length
}
