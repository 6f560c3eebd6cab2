// Knows the file of a self-test: what an artifact's graphs gave of one small picture when it was
// exported. selftest.schema.json of the Python package describes it.

import Foundation

struct Expected: Decodable {
    let version: Int
    let grid: Grid
    let promptIds: [Int64]
    let vision: [Vision]
    let decoder: Reading

    private enum CodingKeys: String, CodingKey {
        case version, grid
        case promptIds = "prompt_ids"
        case vision, decoder
    }

    struct Grid: Decodable {
        let rows: Int
        let columns: Int
        let whole: String?
        let tokens: [Int]?

        var tiles: TileGrid {
            let tokens = self.tokens.flatMap {
                $0.count == 2 ? TokenGrid(rows: $0[0], columns: $0[1]) : nil
            }
            return TileGrid(rows: rows, columns: columns, hasWhole: whole != nil, tokens: tokens)
        }
    }

    /// What a budget keeps.
    struct Vision: Decodable {
        let budget: Int
        let batches: [Batch]
        let bounds: [String: Bounds]
    }

    /// Of the tiles of one size; `rows` are tile and kept index of each token that is sampled.
    struct Batch: Decodable {
        let keptIndices: [[Int]]
        let rows: [[Int]]
        let columns: [Int]
        let samples: [String: Sample]

        private enum CodingKeys: String, CodingKey {
            case keptIndices = "kept_indices"
            case rows, columns, samples
        }
    }

    /// Some numbers of an output, and the largest absolute value of all of it.
    struct Sample: Decodable {
        let values: [[Float]]
        let largest: Float
    }

    /// How far a sound device may be from them.
    struct Bounds: Decodable {
        let cosine: Double
        let keptOverlap: Double?
        let difference: Double?

        private enum CodingKeys: String, CodingKey {
            case cosine
            case keptOverlap = "kept_overlap"
            case difference
        }
    }

    /// Logits after the prompt and after each of the tokens but the last.
    struct Reading: Decodable {
        let tokenIds: [Int64]
        let columns: [Int]
        let logits: Sample
        let bounds: [Reader]

        private enum CodingKeys: String, CodingKey {
            case tokenIds = "token_ids"
            case columns, logits, bounds
        }
    }

    /// A decoder behind a vision graph.
    struct Reader: Decodable {
        let engine: String
        let precision: String
        let vision: String
        let bounds: Bounds
    }
}
