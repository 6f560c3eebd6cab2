// Knows which of an artifact's graphs answer, and how tokens are picked.

import Foundation

/// The files of what is asked for.
struct Choice {
    /// Exported budget of the vision graph.
    let budget: Int
    let visionPrecision: String
    let decoderPrecision: String
    let vision: String
    let table: String
    let decoder: String

    init(_ facts: Facts, _ options: VLM.Options) throws {
        budget = try Choice.budget(facts, options.budget)
        visionPrecision = options.visionPrecision ?? facts.vision.defaultPrecision
        vision = try named(
            facts.vision.graphs[String(budget)] ?? [:], visionPrecision, "vision graph")
        guard let decoders = facts.decoder else {
            throw PocketVLMError.artifact("using.json names no decoder for ONNX Runtime")
        }
        decoderPrecision = options.decoderPrecision ?? decoders.defaultPrecision
        decoder = try named(decoders.graphs, decoderPrecision, "decoder")
        table = try named(decoders.tables, decoderPrecision, "embedding table")
        let others = facts.generation.processors.keys.filter { $0 != "repetition_penalty" }.sorted()
        let test = facts.selfTest.map { [$0.file] + $0.pictures } ?? []
        let files = [vision, table, decoder] + test
        guard files.allSatisfy({ !$0.hasPrefix("/") && !$0.split(separator: "/").contains("..") })
        else {
            throw PocketVLMError.artifact("using.json names files outside of its folder")
        }
        guard others.isEmpty else {
            throw PocketVLMError.artifact(
                "the checkpoint's answers go through \(others.joined(separator: ", "))",
                expected: "repetition_penalty alone, which this client has",
                advice: "answer with pocketvlm's Python runtime, or `pocketvlm serve`")
        }
    }

    /// The exported budget that serves another: equal, or the smallest larger one.
    private static func budget(_ facts: Facts, _ asked: Int?) throws -> Int {
        let exported = facts.vision.budgets
        let budget = asked ?? facts.vision.defaultBudget
        if exported.contains(budget) { return budget }
        let larger = facts.nested && budget >= 1 ? exported.filter { $0 > budget }.min() : nil
        guard let larger else {
            let list = exported.sorted().map(String.init).joined(separator: ", ")
            throw PocketVLMError.request(
                "budget \(budget)", expected: facts.nested ? "1 to \(exported.max() ?? 0)" : list)
        }
        return larger
    }
}

private func named(_ files: [String: String], _ precision: String, _ what: String) throws -> String
{
    guard let file = files[precision] else {
        throw PocketVLMError.request(
            "\(what) in \(precision)",
            expected: files.keys.sorted().joined(separator: ", "))
    }
    return file
}

/// Picks the highest logit, with the checkpoint's own repetition penalty.
struct Picker {
    private let penalty: Float?
    private var occurred: Set<Int>

    init(_ facts: Facts, prompt: [Segment]) {
        penalty = facts.generation.repetitionPenalty.map(Float.init)
        occurred = []
        for segment in prompt where penalty != nil {
            switch segment {
            case .text(let ids): occurred.formUnion(ids.map(Int.init))
            case .picture: occurred.insert(Int(facts.imageTokenId))
            }
        }
    }

    /// The next token. Each id that occurred is penalised once (Keskar et al. 2019, section 4.1).
    mutating func pick(_ logits: [Float]) -> Int64 {
        var scores = logits
        if let penalty {
            for id in occurred where id < scores.count {
                scores[id] = scores[id] < 0 ? scores[id] * penalty : scores[id] / penalty
            }
        }
        let token = highest(scores)
        if penalty != nil { occurred.insert(token) }
        return Int64(token)
    }
}

/// The index of the highest number, of equal ones the first.
func highest(_ values: [Float]) -> Int {
    var most = 0
    for index in values.indices where values[index] > values[most] { most = index }
    return most
}
