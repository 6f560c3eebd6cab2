// Knows the front door: a folder is loaded, pictures are seen, questions are answered as a stream.

import Foundation

/// A loaded artifact. It computes on a thread of its own, one step at a time: one picture encoded,
/// one prompt read, one token written. Several answers may be under way.
public actor VLM {
    /// What is loaded, and how.
    public struct Options: Sendable {
        /// Visual tokens of each tile; nil is the artifact's default. The exported graph that
        /// serves it is loaded, and questions may ask for fewer.
        public var budget: Int?
        public var visionPrecision: String?
        public var decoderPrecision: String?
        public var engine: EngineOptions
        /// Sequences whose caches are kept, so that a further question reads only what is new.
        public var sequences: Int
        /// Compare with the artifact's self-test on any provider; without it only where another
        /// than ONNX Runtime's own kernels computes.
        public var alwaysTests: Bool

        public init(
            budget: Int? = nil, visionPrecision: String? = nil, decoderPrecision: String? = nil,
            engine: EngineOptions = EngineOptions(), sequences: Int = 2, alwaysTests: Bool = false
        ) {
            self.budget = budget
            self.visionPrecision = visionPrecision
            self.decoderPrecision = decoderPrecision
            self.engine = engine
            self.sequences = sequences
            self.alwaysTests = alwaysTests
        }
    }

    public nonisolated let facts: Facts
    /// Visual tokens that a question may keep of each tile.
    public nonisolated let budgets: ClosedRange<Int>
    /// What the self-test measured, in words; empty where it was not run.
    public nonisolated let selfTest: [String]
    /// Milliseconds that loading took.
    public nonisolated let loadMs: Double

    private nonisolated let queue = QueueExecutor()
    private let viewer: Viewer
    private let prompter: Prompter
    private let graphs: TextGraphs
    private let most: Int
    /// Sequences that no answer has, those used last at the end.
    private var pool: [DecoderSequence] = []

    public nonisolated var unownedExecutor: UnownedSerialExecutor {
        queue.asUnownedSerialExecutor()
    }

    /// Load a folder that `pocketvlm export` wrote. This opens files and takes a while: call it
    /// from a task, not from the main thread.
    ///
    /// - Parameters:
    ///   - folder: the whole folder, on the device.
    ///   - decode: reads the PNG file of the self-test; `PocketVLM` has `Picture(file:)`.
    /// - Throws: `PocketVLMError` for a folder that cannot be served, options that it does not
    ///   have, or a device that computes something else than the artifact's self-test expects.
    public init(
        folder: URL, tokenizer: any TextTokenizer, options: Options = Options(),
        decode: (Data) throws -> Picture
    ) throws {
        let began = Date()
        let facts = try Facts.read(folder)
        let choice = try Choice(facts, options)
        let engine = try Engine(options.engine)
        let layout = try openLayout(facts)
        let prompter = Prompter(facts: facts, tokenizer: tokenizer)
        try prompter.checkTokenizer()
        let viewer = Viewer(
            facts, layout: layout, budget: choice.budget,
            graph: try engine.open(choice.vision, in: folder, on: options.engine.vision))
        let graphs = try TextGraphs(
            facts, table: try engine.open(choice.table, in: folder, on: options.engine.decoder),
            decoder: try engine.open(choice.decoder, in: folder, on: options.engine.decoder))
        let isForeign = options.engine.vision != .cpu || options.engine.decoder != .cpu
        if isForeign || options.alwaysTests {
            let test = try SelfTest(facts, folder)
            selfTest = try test.run(
                viewer, graphs, choice, needsDecoder: options.engine.decoder != .cpu, decode)
        } else {
            selfTest = []
        }
        self.facts = facts
        budgets = facts.nested ? 1...choice.budget : choice.budget...choice.budget
        self.viewer = viewer
        self.graphs = graphs
        self.prompter = prompter
        most = max(options.sequences, 0)
        loadMs = Date().timeIntervalSince(began) * 1000
    }

    /// Encode a picture. What comes back may be asked about any number of times.
    public func see(_ picture: Picture) throws -> SeenPicture { try viewer.see(picture) }

    /// Answer a question.
    ///
    /// - Parameters:
    ///   - budget: visual tokens of each tile; nil is all that the loaded graph keeps.
    ///   - onText: called with each piece of text as it comes.
    /// - Throws: `CancellationError` soon after the task is cancelled; `PocketVLMError` for what
    ///   cannot be answered.
    @discardableResult
    public func answer(
        _ conversation: Conversation, budget: Int? = nil, maxNewTokens: Int = 256,
        onText: @Sendable (String) -> Void = { _ in }
    ) async throws -> Answer {
        guard maxNewTokens >= 1 else {
            throw PocketVLMError.request(
                "at most \(maxNewTokens) new tokens", expected: "1 or more")
        }
        let ids = try prompter.ids(conversation)
        let segments = try viewer.segments(ids, conversation.picture, budget: budget)
        let kept = try conversation.picture?.kept(budget: budget) ?? []
        let (prompt, total) = (segments.joined, segments.tokens)
        let room = facts.context - total + 1  // the last token is never read
        guard room >= 1 else {
            throw PocketVLMError.request(
                "a prompt of \(total) tokens", expected: "at most \(facts.context)")
        }
        let sequence = try borrow(prompt)
        defer { giveBack(sequence) }
        try Task.checkCancellation()
        let began = Date()
        let reading = try sequence.prefill(prompt)
        var logits = reading.logits
        let first = Date()
        var picker = Picker(facts, prompt: prompt)
        var text = Detokenizer(prompter.tokenizer)
        var (tokens, isEnded): ([Int64], Bool) = ([], false)
        while true {
            let token = picker.pick(logits)
            tokens.append(token)
            if facts.eosTokenIds.contains(token) {
                isEnded = true
                break
            }
            let piece = try text.push(token)
            if !piece.isEmpty { onText(piece) }
            if tokens.count == min(maxNewTokens, room) { break }
            await Task.yield()  // other answers have their turn
            try Task.checkCancellation()
            logits = try sequence.decode(token)
        }
        let (rest, whole) = try text.finish()
        if !rest.isEmpty { onText(rest) }
        return Answer(
            text: whole, tokenIds: tokens, kept: kept, promptTokens: total,
            cachedTokens: reading.cached,
            isComplete: isEnded, prefillMs: first.timeIntervalSince(began) * 1000,
            decodeMs: Date().timeIntervalSince(first) * 1000)
    }

    /// Answer a question as a stream, which ends with the whole answer. Whoever stops reading it,
    /// or cancels the task that reads it, ends the answer.
    public nonisolated func stream(
        _ conversation: Conversation, budget: Int? = nil, maxNewTokens: Int = 256
    ) -> AsyncThrowingStream<Event, any Error> {
        AsyncThrowingStream { continuation in
            let task = Task {
                do {
                    let answer = try await self.answer(
                        conversation, budget: budget, maxNewTokens: maxNewTokens
                    ) { continuation.yield(.text($0)) }
                    continuation.yield(.end(answer))
                    continuation.finish()
                } catch {
                    continuation.finish(throwing: error)
                }
            }
            continuation.onTermination = { _ in task.cancel() }
        }
    }

    /// Free all caches.
    public func forget() { pool = [] }

    /// The sequence that holds most of a prompt; a new one where there is room, and another
    /// picture would have to go.
    private func borrow(_ prompt: [Segment]) throws -> DecoderSequence {
        let shared = pool.map { $0.shared(with: prompt) }
        guard let longest = shared.max(), let at = shared.firstIndex(of: longest),
            pool.count >= most || !pool[at].losesPicture(beyond: longest)
        else { return try DecoderSequence(graphs) }
        return pool.remove(at: at)
    }

    private func giveBack(_ sequence: DecoderSequence) {
        if most > 0 { pool.append(sequence) }
        if pool.count > most { pool.removeFirst(pool.count - most) }
    }
}

/// What a stream gives.
public enum Event: Sendable {
    case text(String)
    case end(Answer)
}

/// A whole answer.
public struct Answer: Sendable {
    public let text: String
    /// The end of sequence among them.
    public let tokenIds: [Int64]
    /// Of each tile the numbers of the tokens that were kept, in raster order.
    public let kept: [[Int]]
    public let promptTokens: Int
    /// Those of the prompt that were in a cache already.
    public let cachedTokens: Int
    /// Whether the model ended it; else it reached the most tokens.
    public let isComplete: Bool
    public let prefillMs: Double
    /// Of all tokens after the first.
    public let decodeMs: Double
}

/// A thread of its own for an actor, so that computing blocks none of the shared ones.
final class QueueExecutor: SerialExecutor {
    private let queue = DispatchQueue(label: "pocketvlm", qos: .userInitiated)

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        queue.async { job.runSynchronously(on: self.asUnownedSerialExecutor()) }
    }
}
