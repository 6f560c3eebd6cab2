// Knows one sequence of tokens and its cache: whole prompts come in, and only what differs from
// what the cache holds is computed.

import Foundation

/// The graphs that read and write text.
final class TextGraphs {
    let facts: Facts
    let table: Graph
    let decoder: Graph
    /// Inputs of the decoder, with their axes.
    let inputs: [String: [Facts.Axis]]
    let outputs: Set<String>
    /// Inputs that are the cache, and the outputs that become them.
    let cache: [(past: String, present: String)]

    init(_ facts: Facts, table: Graph, decoder: Graph) throws {
        guard let graph = facts.graphs.decoder else {
            throw PocketVLMError.artifact("using.json names no decoder for ONNX Runtime")
        }
        self.facts = facts
        self.table = table
        self.decoder = decoder
        inputs = graph.inputs
        cache = graph.inputs.keys.sorted().compactMap { name in
            if name.hasPrefix("past_key_values.") {
                return (name, "present." + name.dropFirst("past_key_values.".count))
            }
            if name.hasPrefix("past_conv.") {
                return (name, "present_conv." + name.dropFirst("past_conv.".count))
            }
            return nil
        }
        outputs = Set(["logits"] + cache.map(\.present))
        let others: Set = [
            "inputs_embeds", "attention_mask", "position_ids", "picture_ids", "scored_rows",
        ]
        let unknown = inputs.keys.filter { name in
            !others.contains(name) && !(facts.extras ?? []).contains(name)
                && !cache.contains { $0.past == name }
        }
        guard unknown.isEmpty else {
            throw PocketVLMError.artifact(
                "the decoder reads \(unknown.sorted().joined(separator: ", "))",
                expected: "what this client knows", advice: "update this package")
        }
    }

    /// Embeddings of ids, count * hidden numbers.
    func embed(_ ids: [Int64]) throws -> [Float] {
        if ids.isEmpty { return [] }
        let outputs = try table.run(
            ["input_ids": try longTensor(ids, [1, ids.count])], ["inputs_embeds"])
        return try output(outputs, "inputs_embeds").floats(
            "inputs_embeds", [1, ids.count, facts.hidden])
    }

    /// A cache that holds nothing.
    func emptyCache() throws -> [String: Tensor] {
        var empty: [String: Tensor] = [:]
        for (past, _) in cache {
            let shape = (inputs[past] ?? []).map { axis -> Int in
                switch axis {
                case .size(let size): size
                case .named("batch"): 1
                case .named: 0
                }
            }
            empty[past] = try floatTensor([Float](repeating: 0, count: shape.reduce(1, *)), shape)
        }
        return empty
    }
}

func output(_ outputs: [String: Tensor], _ name: String) throws -> Tensor {
    guard let value = outputs[name] else {
        throw PocketVLMError.artifact("a graph gives no \(name)")
    }
    return value
}

/// One sequence and its cache.
final class DecoderSequence {
    private let graphs: TextGraphs
    private var cache: [String: Tensor]
    /// What the cache holds, joined.
    private(set) var held: [Segment] = []
    private var nextPosition: Int
    private let numbering: Numbering

    init(_ graphs: TextGraphs) throws {
        self.graphs = graphs
        cache = try graphs.emptyCache()
        numbering = Numbering(axes: graphs.facts.axes, first: graphs.facts.firstPosition ?? 0)
        nextPosition = numbering.first
    }

    var length: Int { held.tokens }

    /// Whether a beginning of the cache can be gone on from: not where layers are convolutions or
    /// drop tokens, nor where a prompt is read in one run.
    var canBeCut: Bool {
        graphs.facts.stages.isEmpty && graphs.facts.needs["convolutions"] == nil
            && graphs.facts.attention != "prompt"
    }

    /// Tokens of a joined prompt that need not be computed.
    func shared(with prompt: [Segment]) -> Int {
        guard canBeCut else { return 0 }
        // The last token is always computed: its logits are what is asked for.
        return held.first(min(held.common(with: prompt), prompt.tokens - 1)).tokens
    }

    /// Whether a picture goes where only the first tokens stay.
    func losesPicture(beyond length: Int) -> Bool {
        held.without(first: length).contains { if case .picture = $0 { true } else { false } }
    }

    /// Logits after a whole prompt, and how many of its tokens were in the cache.
    func prefill(_ segments: [Segment]) throws -> (logits: [Float], cached: Int) {
        let prompt = segments.joined
        let cached = shared(with: prompt)
        try keep(cached)
        return (try run(prompt.without(first: cached)), cached)
    }

    /// Logits after one further token.
    func decode(_ id: Int64) throws -> [Float] { try run([.text([id])]) }

    /// Cut the sequence to its first tokens.
    private func keep(_ length: Int) throws {
        if length == self.length { return }
        if length == 0 {
            held = []
            nextPosition = numbering.first
            cache = try graphs.emptyCache()
            return
        }
        var shorter: [String: Tensor] = [:]
        for (name, value) in cache { shorter[name] = try value.cut(to: length) }
        held = held.first(length)
        nextPosition = try numbering.planes(held, from: numbering.first).next
        cache = shorter
    }

    /// Append segments. What the sequence holds changes only when the run has succeeded.
    private func run(_ segments: [Segment]) throws -> [Float] {
        let (facts, count) = (graphs.facts, segments.tokens)
        guard length + count <= facts.context else {
            throw PocketVLMError.request(
                "a sequence of \(length + count) tokens", expected: "at most \(facts.context)")
        }
        let (planes, next) = try numbering.planes(segments, from: nextPosition)
        var inputs = cache
        for name in graphs.inputs.keys where inputs[name] == nil {
            inputs[name] = try input(name, segments, count, planes)
        }
        let outputs = try graphs.decoder.run(inputs, graphs.outputs)
        let logits = try output(outputs, "logits").floats("logits", [1, 1, facts.vocab])
        for (past, present) in graphs.cache { cache[past] = try output(outputs, present) }
        held = (held + segments).joined
        nextPosition = next
        return logits
    }

    private func input(
        _ name: String, _ segments: [Segment], _ count: Int, _ planes: [[Int64]]
    ) throws -> Tensor {
        switch name {
        case "inputs_embeds":
            var rows: [Float] = []
            rows.reserveCapacity(count * graphs.facts.hidden)
            for segment in segments {
                switch segment {
                case .text(let ids): rows += try graphs.embed(ids)
                case .picture(let picture): rows += picture.rows
                }
            }
            return try floatTensor(rows, [1, count, graphs.facts.hidden])
        case "attention_mask":
            return try longTensor(
                [Int64](repeating: 1, count: length + count), [1, length + count])
        case "position_ids":
            let shape = graphs.facts.axes > 1 ? [graphs.facts.axes, 1, count] : [1, count]
            return try longTensor(planes.flatMap { $0 }, shape)
        case "picture_ids": return try longTensor(pictureIds(segments, count), [1, count])
        case "scored_rows": return try longTensor([], [0])
        default: return try floatTensor(further(name, segments), [1, count, graphs.facts.hidden])
        }
    }

    /// Of a decoder whose pictures see each other both ways, or drop tokens: 0 for text, and for a
    /// picture its number from 1. Where a whole prompt does, 1 for all of it.
    private func pictureIds(_ segments: [Segment], _ count: Int) -> [Int64] {
        if graphs.facts.attention == "prompt" {
            return [Int64](repeating: count > 1 ? 1 : 0, count: count)
        }
        var (ids, pictures): ([Int64], Int64) = ([], 0)
        for segment in segments {
            if case .picture(let rows) = segment, !rows.continues || pictures == 0 { pictures += 1 }
            let isText = if case .text = segment { true } else { false }
            ids += [Int64](repeating: isText ? 0 : pictures, count: segment.count)
        }
        return ids
    }

    /// Further features by name, zeros for text.
    private func further(_ name: String, _ segments: [Segment]) -> [Float] {
        segments.flatMap { segment -> [Float] in
            if case .picture(let rows) = segment, let values = rows.extras[name] { return values }
            return [Float](repeating: 0, count: segment.count * graphs.facts.hidden)
        }
    }
}

extension Tensor {
    /// Keys or values (1, heads, tokens, width) of the first tokens.
    fileprivate func cut(to length: Int) throws -> Tensor {
        let sizes = try shape()
        guard sizes.count == 4, sizes[2] >= length else {
            throw PocketVLMError.artifact("a cache has the shape \(sizes)")
        }
        let values = try floats("a cache", sizes)
        let (line, kept) = (sizes[2] * sizes[3], length * sizes[3])
        let heads = (0..<sizes[1]).flatMap { values[$0 * line..<$0 * line + kept] }
        return try floatTensor(heads, [1, sizes[1], length, sizes[3]])
    }
}
