// Runs the client on the jobs of a JSON file: `driver JOBS RESULTS`. Standard input and output are
// the pipe to ONNX Runtime; a result is a JSON line.

import Foundation
import OnnxRuntimeBindings
import PocketVLMCore

struct Job: Decodable {
    let `do`: String
    let folder: String?
    let picture: String?
    let question: String?
    let further: String?
    let system: String?
    let budget: Int?
    let load: Int?
    let most: Int?
    let coreml: Bool?
    let tests: Bool?
    let threads: Int?
    let width: Int?
    let height: Int?
    let filter: String?
    let orientation: Int?
    let after: Int?
    let visionPrecision: String?
    let decoderPrecision: String?
}

/// `tokenizers` at the other end of the pipe.
struct PipedTokenizer: TextTokenizer {
    let file: String

    func encode(_ text: String, addSpecialTokens: Bool) throws -> [Int64] {
        let reply = try Pipe.shared.ask(
            ["do": "encode", "tokenizer": file, "text": text, "special": addSpecialTokens])
        return (reply.header["ids"] as? [Int] ?? []).map(Int64.init)
    }

    func decode(_ ids: [Int64]) throws -> String {
        let reply = try Pipe.shared.ask([
            "do": "decode", "tokenizer": file, "ids": ids.map(Int.init),
        ])
        return reply.header["text"] as? String ?? ""
    }
}

func pictureFile(_ path: String, orientation: Int = 1) throws -> Picture {
    let reply = try Pipe.shared.ask(["do": "picture", "path": path])
    guard let tensor = reply.tensors["rgba"] else { throw CocoaError(.fileReadCorruptFile) }
    return try Picture(
        width: tensor.shape[1], height: tensor.shape[0], rgba: [UInt8](tensor.data),
        orientation: orientation)
}

/// The self-test's picture, by way of a file, as the pipe reads files.
func decode(_ data: Data) throws -> Picture {
    let file = FileManager.default.temporaryDirectory.appendingPathComponent("\(UUID()).png")
    defer { try? FileManager.default.removeItem(at: file) }
    try data.write(to: file)
    return try pictureFile(file.path)
}

actor Models {
    private var loaded: [String: VLM] = [:]
    private var seen: [String: SeenPicture] = [:]

    func model(_ job: Job) throws -> VLM {
        let folder = job.folder ?? ""
        let flags = "\(job.load ?? 0) \(job.coreml ?? false) \(job.tests ?? false)"
        let precisions = "\(job.visionPrecision ?? "") \(job.decoderPrecision ?? "")"
        let key = "\(folder) \(flags) \(precisions)"
        if let model = loaded[key] { return model }
        let provider: EngineOptions.Provider =
            job.coreml == true ? .coreML(["ModelFormat": "MLProgram"]) : .cpu
        let options = VLM.Options(
            budget: job.load, visionPrecision: job.visionPrecision,
            decoderPrecision: job.decoderPrecision,
            engine: EngineOptions(threads: job.threads, vision: provider, decoder: provider),
            alwaysTests: job.tests ?? false)
        let model = try VLM(
            folder: URL(fileURLWithPath: folder),
            tokenizer: PipedTokenizer(file: "\(folder)/tokenizer.json"), options: options,
            decode: decode)
        loaded[key] = model
        return model
    }

    func picture(_ job: Job, _ model: VLM) async throws -> SeenPicture? {
        guard let path = job.picture else { return nil }
        let key = "\(job.folder ?? "") \(job.load ?? 0) \(path)"
        if let picture = seen[key] { return picture }
        let picture = try await model.see(pictureFile(path, orientation: job.orientation ?? 1))
        seen[key] = picture
        return picture
    }
}

let models = Models()

/// What a stream gave, piece by piece, and its end.
func read(_ stream: AsyncThrowingStream<Event, any Error>) async throws -> (
    pieces: [String], answer: Answer?
) {
    var (pieces, answer): ([String], Answer?) = ([], nil)
    for try await event in stream {
        switch event {
        case .text(let piece): pieces.append(piece)
        case .end(let whole): answer = whole
        }
    }
    return (pieces, answer)
}

func described(_ answer: Answer) -> [String: Any] {
    [
        "token_ids": answer.tokenIds.map(Int.init), "text": answer.text, "kept": answer.kept,
        "prompt_tokens": answer.promptTokens, "cached_tokens": answer.cachedTokens,
        "complete": answer.isComplete, "prefill_ms": answer.prefillMs, "decode_ms": answer.decodeMs,
    ]
}

func ask(_ job: Job) async throws -> [String: Any] {
    let model = try await models.model(job)
    let picture = try await models.picture(job, model)
    let conversation = Conversation(job.question ?? "", about: picture, system: job.system)
    let most = job.most ?? 32
    let (pieces, answer) = try await read(
        model.stream(conversation, budget: job.budget, maxNewTokens: most))
    guard let answer else { return ["error": "the stream had no end"] }
    var result = described(answer)
    result["pieces"] = pieces
    result["self_test"] = model.selfTest
    if let picture {
        result["squares"] = try picture.squares(budget: job.budget).map {
            [$0.x, $0.y, $0.width, $0.height]
        }
        result["tiles"] = [picture.grid.rows, picture.grid.columns, picture.grid.tiles]
    }
    if let further = job.further {
        let next = conversation.answered(answer.text, then: further)
        result["further"] = described(
            try await model.answer(next, budget: job.budget, maxNewTokens: most))
    }
    return result
}

/// An answer that is cancelled after so many tokens, and the same question asked again.
func cancel(_ job: Job) async throws -> [String: Any] {
    let model = try await models.model(job)
    let picture = try await models.picture(job, model)
    let conversation = Conversation(job.question ?? "", about: picture)
    var pieces = 0
    for try await event in model.stream(conversation, budget: job.budget) {
        if case .text = event { pieces += 1 }
        if pieces == job.after ?? 1 { break }
    }
    let task = Task { try await model.answer(conversation, budget: job.budget) }
    task.cancel()
    var isCancelled = false
    do { _ = try await task.value } catch is CancellationError { isCancelled = true }
    let again = try await model.answer(
        conversation, budget: job.budget, maxNewTokens: job.most ?? 32)
    return described(again).merging(["pieces_before": pieces, "cancelled": isCancelled]) {
        first, _ in first
    }
}

/// Two answers at once on one model.
func both(_ job: Job) async throws -> [String: Any] {
    let model = try await models.model(job)
    let picture = try await models.picture(job, model)
    async let one = model.answer(
        Conversation(job.question ?? "", about: picture), budget: job.budget)
    async let other = model.answer(
        Conversation(job.further ?? "", about: picture), budget: job.budget)
    return ["first": described(try await one), "second": described(try await other)]
}

func resize(_ job: Job) throws -> [String: Any] {
    let picture = try pictureFile(job.picture ?? "", orientation: job.orientation ?? 1)
    guard let name = job.filter, let filter = Filter(rawValue: name) else { return shown(picture) }
    return shown(picture.resized(width: job.width ?? 1, height: job.height ?? 1, filter))
}

func shown(_ picture: Picture) -> [String: Any] {
    [
        "width": picture.width, "height": picture.height,
        "rgb": Data(picture.samples).base64EncodedString(),
    ]
}

func run(_ job: Job) async -> [String: Any] {
    do {
        switch job.do {
        case "ask": return try await ask(job)
        case "cancel": return try await cancel(job)
        case "both": return try await both(job)
        case "resize": return try resize(job)
        default: return ["error": "the job \(job.do) is unknown"]
        }
    } catch let error as PocketVLMError {
        return ["error": error.description, "kind": error.kind.rawValue]
    } catch {
        return ["error": "\(error)"]
    }
}

/// The result of a job as a line.
func line(_ job: Job) async throws -> Data {
    try JSONSerialization.data(withJSONObject: await run(job)) + Data("\n".utf8)
}

@main
struct Driver {
    static func main() async throws {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        let (from, to) = (CommandLine.arguments[1], CommandLine.arguments[2])
        let jobs = try decoder.decode(
            [Job].self, from: Data(contentsOf: URL(fileURLWithPath: from)))
        var lines = Data()
        for job in jobs {
            lines.append(try await line(job))
        }
        try lines.write(to: URL(fileURLWithPath: to))
    }
}
