// Knows using.json, the facts of an artifact that the exporter writes for clients.

import Foundation

/// What a client must know of an artifact; using.schema.json describes the file.
public struct Facts: Sendable, Decodable {
    let format: Int
    /// The artifact's id.
    public let artifact: String
    public let model: String
    let medium: String
    /// Visual tokens that a tile keeps at the default budget.
    public let visualTokens: Int
    /// Tokens of a tile before pruning, of the largest where sizes differ.
    public let patches: Int
    /// Whether one graph serves any smaller budget.
    public let nested: Bool
    /// What not every artifact asks of a client, each in words.
    public let needs: [String: String]
    let graphs: Graphs
    let vision: Visions
    let decoder: Decoders?
    let positions: String
    let axes: Int
    let firstPosition: Int?
    let attention: String?
    let extras: [String]?
    let tokens: [Int]?
    let picture: Steps
    let layout: LayoutFacts
    let around: Around?
    let tokenizer: TokenizerFacts
    public let prompt: ExamplePrompt
    let pieces: Pieces
    let generation: Generation
    let imageTokenId: Int64
    let eosTokenIds: [Int64]
    let stages: [Stage]
    let hidden: Int
    let vocab: Int
    public let context: Int
    let selfTest: SelfTestFiles?
    public let notes: [String]

    private enum CodingKeys: String, CodingKey {
        case format, artifact, model, medium
        case visualTokens = "visual_tokens"
        case patches, nested, needs
        case graphs, vision, decoder, positions, axes
        case firstPosition = "first_position"
        case attention
        case extras
        case tokens = "grid"
        case picture, layout, around, tokenizer, prompt, pieces, generation
        case imageTokenId = "image_token_id"
        case eosTokenIds = "eos_token_ids"
        case stages, hidden, vocab
        case context
        case selfTest = "self_test"
        case notes
    }

    /// A graph with its tensors; axes are numbers, or names where they may have any size.
    struct Graph: Sendable, Decodable {
        let file: String
        let inputs: [String: [Axis]]
        let outputs: [String: [Axis]]
    }

    struct Graphs: Sendable, Decodable {
        let vision: Graph
        let embed: Graph?
        let decoder: Graph?
    }

    enum Axis: Sendable, Decodable, Equatable {
        case size(Int)
        case named(String)

        init(from decoder: any Decoder) throws {
            let value = try decoder.singleValueContainer()
            if let size = try? value.decode(Int.self) {
                self = .size(size)
            } else {
                self = .named(try value.decode(String.self))
            }
        }
    }

    /// Every vision graph: `graphs[budget][precision]`.
    struct Visions: Sendable, Decodable {
        let defaultBudget: Int
        let budgets: [Int]
        let defaultPrecision: String
        let graphs: [String: [String: String]]
        let extras: [String]

        private enum CodingKeys: String, CodingKey {
            case defaultBudget = "default_budget"
            case budgets
            case defaultPrecision = "default_precision"
            case graphs, extras
        }
    }

    /// Every decoder by precision, and the table that each reads.
    struct Decoders: Sendable, Decodable {
        let defaultPrecision: String
        let graphs: [String: String]
        let tables: [String: String]

        private enum CodingKeys: String, CodingKey {
            case defaultPrecision = "default_precision"
            case graphs, tables
        }
    }

    /// The ids around a picture's slots, where they are the same of every picture.
    struct Around: Sendable, Decodable {
        let before: [Int64]
        let after: [Int64]
    }

    struct TokenizerFacts: Sendable, Decodable {
        let specialTokens: [String: String]
        let imageToken: String

        private enum CodingKeys: String, CodingKey {
            case specialTokens = "special_tokens"
            case imageToken = "image_token"
        }
    }

    /// A question about one picture as the exporter tokenized it, to compare with.
    public struct ExamplePrompt: Sendable, Decodable {
        public let question: String
        public let text: String
        public let ids: [Int64]
    }

    /// The chat template's own texts around what people and the model write.
    struct Pieces: Sendable, Decodable {
        let question: [String]?
        let questionPicture: [String]?
        let system: [String]?
        let systemPicture: [String]?
        let further: [String]?
        let trims: Bool

        private enum CodingKeys: String, CodingKey {
            case question
            case questionPicture = "question_picture"
            case system
            case systemPicture = "system_picture"
            case further, trims
        }
    }

    /// How the checkpoint was published to answer.
    struct Generation: Sendable, Decodable {
        let processors: [String: Ignored]
        let repetitionPenalty: Double?

        private enum CodingKeys: String, CodingKey { case processors }
        private enum Known: String, CodingKey { case repetitionPenalty = "repetition_penalty" }

        init(from decoder: any Decoder) throws {
            let container = try decoder.container(keyedBy: CodingKeys.self)
            processors = try container.decode([String: Ignored].self, forKey: .processors)
            let known = try container.nestedContainer(keyedBy: Known.self, forKey: .processors)
            repetitionPenalty = try known.decodeIfPresent(Double.self, forKey: .repetitionPenalty)
        }
    }

    /// A value that only its name is read of.
    struct Ignored: Sendable, Decodable {
        init(from decoder: any Decoder) throws {}
    }

    struct Stage: Sendable, Decodable {
        let layer: Int
        let keep: Int
    }

    struct SelfTestFiles: Sendable, Decodable {
        let file: String
        let pictures: [String]
    }
}

/// How a picture is cut: the layout by its name, with its options; each has its own of them.
struct LayoutFacts: Sendable, Decodable {
    let name: String
    let tileSize: [Int]?
    let oneGrid: Bool
    let unit: String
    private let options: Options

    var factor: Int? { options.factor }
    var minPixels: Int? { options.minPixels }
    var maxPixels: Int? { options.maxPixels }
    var size: [Int]? { options.size }
    var before: [Int64]? { options.before }
    var after: [Int64]? { options.after }
    var minTiles: Int? { options.minTiles }
    var maxTiles: Int? { options.maxTiles }
    var longestEdge: Int? { options.longestEdge }
    var splits: Bool? { options.splits }
    var resizes: Bool? { options.resizes }
    var marks: [String: [Int64]]? { options.marks }
    var parts: [[[Int64]]]? { options.parts }
    var newline: Bool? { options.newline }

    private enum CodingKeys: String, CodingKey {
        case name
        case tileSize = "tile_size"
        case oneGrid = "one_grid"
        case unit, options
    }

    private struct Options: Sendable, Decodable {
        let factor: Int?
        let minPixels: Int?
        let maxPixels: Int?
        let size: [Int]?
        let before: [Int64]?
        let after: [Int64]?
        let minTiles: Int?
        let maxTiles: Int?
        let longestEdge: Int?
        let splits: Bool?
        let resizes: Bool?
        let marks: [String: [Int64]]?
        let parts: [[[Int64]]]?
        let newline: Bool?

        private enum CodingKeys: String, CodingKey {
            case factor
            case minPixels = "min_pixels"
            case maxPixels = "max_pixels"
            case size, before, after
            case minTiles = "min_tiles"
            case maxTiles = "max_tiles"
            case longestEdge = "longest_edge"
            case splits, resizes, marks, parts, newline
        }
    }
}

extension Facts {
    /// What this client has of what artifacts need.
    private static let served: Set<String> = [
        "stages", "scored_rows", "picture_ids", "prompt_in_one_run", "positions", "extras",
        "convolutions",
    ]

    /// Read the facts of a folder.
    ///
    /// - Throws: `PocketVLMError` where they are missing, damaged, or ask for what this client does
    ///   not have; it says what.
    public static func read(_ folder: URL) throws -> Facts {
        let file = folder.appendingPathComponent("using.json")
        guard let data = try? Data(contentsOf: file) else {
            throw PocketVLMError.artifact(
                "\(folder.lastPathComponent) has no using.json",
                advice: "copy the whole folder that `pocketvlm export` wrote")
        }
        let facts: Facts
        do {
            let head = try JSONDecoder().decode(Head.self, from: data)
            guard head.format == 1 else {
                let format = head.format.map(String.init) ?? "of an older release"
                throw PocketVLMError.artifact(
                    "using.json has the format \(format)", expected: "1",
                    advice: "export again, or update this package")
            }
            facts = try JSONDecoder().decode(Facts.self, from: data)
        } catch let error as DecodingError {
            throw PocketVLMError.artifact("using.json is damaged (\(error.brief))")
        }
        try facts.checkNeeds()
        return facts
    }

    private struct Head: Decodable {
        let format: Int?
    }

    private func checkNeeds() throws {
        if let (name, words) = needs.filter({ !Facts.served.contains($0.key) }).min(by: {
            $0.key < $1.key
        }) {
            throw PocketVLMError.artifact(
                "this client does not serve \(model): \(words) (\(name))",
                advice: "answer with pocketvlm's Python runtime, or `pocketvlm serve`")
        }
        guard medium == "picture", graphs.decoder != nil, graphs.embed != nil, decoder != nil else {
            throw PocketVLMError.artifact("using.json names no decoder for ONNX Runtime")
        }
        let sizes = [visualTokens, patches, axes, hidden, vocab, context] + vision.budgets
        guard sizes.allSatisfy({ (1...100_000_000).contains($0) }), imageTokenId >= 0 else {
            throw PocketVLMError.artifact("using.json states sizes that are none")
        }
        guard ["contiguous", "mrope"].contains(positions) else {
            throw PocketVLMError.artifact(
                "positions \(positions) are unknown to this client", advice: "update this package")
        }
    }

    /// Rows and columns of the tokens of a tile, where all tiles have one size.
    func grid() throws -> TokenGrid {
        guard let tokens, tokens.count == 2, tokens.allSatisfy({ $0 > 0 }) else {
            throw PocketVLMError.artifact(
                "using.json states no rows and columns of a tile's tokens")
        }
        return TokenGrid(rows: tokens[0], columns: tokens[1])
    }
}

extension DecodingError {
    /// Where and what, in a few words.
    fileprivate var brief: String {
        switch self {
        case .keyNotFound(let key, _): "no \(key.stringValue)"
        case .typeMismatch(_, let context), .valueNotFound(_, let context),
            .dataCorrupted(let context):
            (context.codingPath.map(\.stringValue) + [context.debugDescription]).joined(
                separator: ": ")
        @unknown default: "\(self)"
        }
    }
}
