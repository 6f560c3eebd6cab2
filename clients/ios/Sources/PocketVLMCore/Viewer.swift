// Knows the vision graph at work: a picture becomes features, and features fill a prompt's slots.

import Foundation

final class Viewer {
    let facts: Facts
    let layout: any Layout
    /// Exported budget of the graph that is loaded.
    let budget: Int
    private let graph: Graph

    init(_ facts: Facts, layout: any Layout, budget: Int, graph: Graph) {
        self.facts = facts
        self.layout = layout
        self.budget = budget
        self.graph = graph
    }

    /// Encode a picture, all of its tiles in one run.
    func see(_ picture: Picture) throws -> SeenPicture {
        let began = Date()
        let cut = try layout.cut(picture)
        let pixels = cut.tiles.flatMap(layout.steps.normalised)
        let prepared = Date()
        let tiles = try encode(
            pixels, tiles: cut.tiles.count, height: cut.tiles[0].height, width: cut.tiles[0].width,
            patches: layout.tokenGrid(cut.grid).tokens)
        return SeenPicture(
            width: picture.width, height: picture.height, grid: cut.grid, budget: budget,
            patches: layout.tokenGrid(cut.grid).tokens, nested: facts.nested,
            preprocessMs: prepared.timeIntervalSince(began) * 1000,
            visionMs: Date().timeIntervalSince(prepared) * 1000, id: UUID(),
            tokens: layout.tokenGrid(cut.grid), areas: cut.areas, tiles: tiles,
            hidden: facts.hidden)
    }

    /// What the graph gives of tiles of one size.
    func encode(_ pixels: [Float], tiles: Int, height: Int, width: Int, patches: Int) throws
        -> [SeenTile]
    {
        let extras = facts.vision.extras
        let names = ["image_features", "kept_indices", "kept_scores"]
        let outputs = try graph.run(
            ["pixel_values": try floatTensor(pixels, [tiles, 3, height, width])],
            Set(names + extras))
        let (kept, hidden) = (min(budget, patches), facts.hidden)
        let indices = try output(outputs, names[1]).longs(names[1], [tiles, kept])
        let scores = try output(outputs, names[2]).floats(names[2], [tiles, kept])
        let features = try output(outputs, names[0]).floats(names[0], [tiles, kept, hidden])
        var further: [String: [Float]] = [:]
        for name in extras {
            further[name] = try output(outputs, name).floats(name, [tiles, kept, hidden])
        }
        return try (0..<tiles).map { tile in
            let numbers = indices[tile * kept..<(tile + 1) * kept].map(Int.init)
            guard numbers.allSatisfy({ (0..<patches).contains($0) }),
                zip(numbers, numbers.dropFirst()).allSatisfy(<)
            else {
                throw PocketVLMError.engine(
                    "the vision graph keeps tokens that are none of the picture's",
                    advice: "compute it on the provider cpu")
            }
            let rows = tile * kept * hidden..<(tile + 1) * kept * hidden
            return SeenTile(
                kept: numbers, scores: Array(scores[tile * kept..<(tile + 1) * kept]),
                features: Array(features[rows]), extras: further.mapValues { Array($0[rows]) })
        }
    }

    /// A prompt's ids with one image token as segments, the picture's features in its place.
    func segments(_ ids: [Int64], _ picture: SeenPicture?, budget: Int?) throws -> [Segment] {
        guard let picture else { return [.text(ids)] }
        let rows = try picture.rows(budget)
        let slots = try layout.expand(picture.grid, kept: rows[0].count, slot: facts.imageTokenId)
        let all = placed(ids, slot: facts.imageTokenId, picture: slots)
        guard slots.filter({ $0 == facts.imageTokenId }).count == rows.reduce(0, { $0 + $1.count })
        else {
            throw PocketVLMError.artifact(
                "the vision graph gives another number of tokens than the prompt has places")
        }
        return filled(all, picture, rows)
    }

    /// Ids cut at the slots. Other ids may come between the slots of a picture: its rows are then
    /// cut there too.
    private func filled(_ ids: [Int64], _ picture: SeenPicture, _ rows: [[Int]]) -> [Segment] {
        let (features, extras) = picture.features(rows)
        let (hidden, slot) = (facts.hidden, facts.imageTokenId)
        let kept =
            layout.isOneGrid
            ? zip(picture.tiles, rows).flatMap { t, r in r.map { t.kept[$0] } } : []
        var (segments, at, filled): ([Segment], Int, Int) = ([], 0, 0)
        while at < ids.count {
            let isSlot = ids[at] == slot
            let end = ids[at...].firstIndex { ($0 == slot) != isSlot } ?? ids.count
            if isSlot {
                let run = filled..<filled + end - at
                let numbers = run.lowerBound * hidden..<run.upperBound * hidden
                segments.append(
                    .picture(
                        PictureRows(
                            key: "\(picture.id)/\(rows[0].count)/\(filled)",
                            rows: Array(features[numbers]),
                            count: run.count, extras: extras.mapValues { Array($0[numbers]) },
                            kept: kept.isEmpty ? [] : Array(kept[run]),
                            grid: layout.isOneGrid ? picture.tokens : nil, continues: filled > 0)))
                filled = run.upperBound
            } else {
                segments.append(.text(Array(ids[at..<end])))
            }
            at = end
        }
        return segments
    }
}
