// Knows ONNX Runtime: the only file that opens sessions and touches tensors.
//
// The package's module is OnnxRuntimeBindings; the pod onnxruntime-objc has the same types in a
// module of its own name.

import Foundation

#if canImport(OnnxRuntimeBindings)
    import OnnxRuntimeBindings
#else
    import onnxruntime_objc
#endif

/// A value of a graph, which no one writes to again.
typealias Tensor = ORTValue

/// How ONNX Runtime computes. No option comes from an artifact.
public struct EngineOptions: Sendable {
    /// Where graphs are computed.
    public enum Provider: Sendable, Equatable {
        /// ONNX Runtime's own kernels.
        case cpu
        /// Apple's Core ML, with ONNX Runtime's options for it by name, such as
        /// `["ModelFormat": "MLProgram", "MLComputeUnits": "CPUAndNeuralEngine"]`. Before it
        /// answers it is held against the artifact's self-test, and refused where it differs.
        case coreML([String: String])
    }

    /// Threads of one run; nil is ONNX Runtime's own choice.
    public var threads: Int?
    /// Of the vision graph. A phone's GPU or neural engine helps here most.
    public var vision: Provider
    /// Of the embedding table and the decoder, whose shapes change with each token.
    public var decoder: Provider

    public init(threads: Int? = nil, vision: Provider = .cpu, decoder: Provider = .cpu) {
        self.threads = threads
        self.vision = vision
        self.decoder = decoder
    }
}

/// What sessions are opened in.
final class Engine {
    private let environment: ORTEnv
    private let options: EngineOptions

    init(_ options: EngineOptions) throws {
        guard (options.threads ?? 1) >= 1 else {
            throw PocketVLMError.request("\(options.threads ?? 0) threads", expected: "1 or more")
        }
        self.options = options
        environment = try engineErrors("ONNX Runtime does not start") {
            try ORTEnv(loggingLevel: .warning)
        }
    }

    /// Open a graph of a folder.
    func open(_ file: String, in folder: URL, on provider: EngineOptions.Provider) throws -> Graph {
        let path = folder.appendingPathComponent(file).path
        guard FileManager.default.fileExists(atPath: path) else {
            throw PocketVLMError.artifact(
                "\(file) is missing", advice: "copy the whole folder that `pocketvlm export` wrote")
        }
        return try engineErrors("\(file) cannot be opened") {
            let session = try ORTSession(
                env: environment, modelPath: path, sessionOptions: try sessionOptions(provider))
            return Graph(session, file)
        }
    }

    private func sessionOptions(_ provider: EngineOptions.Provider) throws -> ORTSessionOptions {
        let made = try ORTSessionOptions()
        if let threads = options.threads { try made.setIntraOpNumThreads(Int32(threads)) }
        if case .coreML(let settings) = provider {
            guard ORTIsCoreMLExecutionProviderAvailable() else {
                throw PocketVLMError.engine(
                    "this ONNX Runtime has no Core ML", advice: "take the provider cpu")
            }
            try made.appendCoreMLExecutionProvider(withOptionsV2: settings)
        }
        return made
    }
}

/// A graph that is opened.
final class Graph {
    private let session: ORTSession
    private let file: String

    init(_ session: ORTSession, _ file: String) {
        self.session = session
        self.file = file
    }

    /// The outputs of these names.
    func run(_ inputs: [String: Tensor], _ names: Set<String>) throws -> [String: Tensor] {
        try engineErrors("\(file) failed") {
            try session.run(withInputs: inputs, outputNames: names, runOptions: nil)
        }
    }
}

func floatTensor(_ values: [Float], _ shape: [Int]) throws -> Tensor {
    try tensor(values, .float, shape)
}

func longTensor(_ values: [Int64], _ shape: [Int]) throws -> Tensor {
    try tensor(values, .int64, shape)
}

private func tensor<T>(
    _ values: [T], _ type: ORTTensorElementDataType, _ shape: [Int]
) throws -> Tensor {
    // A tensor without elements still needs an address.
    let bytes = max(values.count, 1) * MemoryLayout<T>.stride
    guard let data = NSMutableData(length: bytes) else {
        throw PocketVLMError.engine("no memory for \(bytes) bytes")
    }
    values.withUnsafeBytes { from in
        if let start = from.baseAddress {
            data.mutableBytes.copyMemory(from: start, byteCount: from.count)
        }
    }
    return try engineErrors("a tensor of the shape \(shape) cannot be made") {
        try ORTValue(tensorData: data, elementType: type, shape: shape.map { NSNumber(value: $0) })
    }
}

extension ORTValue {
    /// Sizes of its axes.
    func shape() throws -> [Int] {
        try engineErrors("a tensor has no shape") {
            try tensorTypeAndShapeInfo().shape.map(\.intValue)
        }
    }

    /// Its numbers, of the shape that is expected; a negative size is any.
    func floats(_ name: String, _ expected: [Int]) throws -> [Float] {
        try numbers(name, expected, .float)
    }

    /// See `floats`.
    func longs(_ name: String, _ expected: [Int]) throws -> [Int64] {
        try numbers(name, expected, .int64)
    }

    private func numbers<T>(
        _ name: String, _ expected: [Int], _ type: ORTTensorElementDataType
    ) throws -> [T] {
        let (shape, kind, data) = try engineErrors("\(name) cannot be read") {
            let info = try tensorTypeAndShapeInfo()
            return (info.shape.map(\.intValue), info.elementType, try tensorData() as Data)
        }
        let isExpected =
            shape.count == expected.count && zip(shape, expected).allSatisfy { $1 < 0 || $0 == $1 }
        let count = shape.reduce(1, *)
        guard kind == type, isExpected, data.count >= count * MemoryLayout<T>.stride else {
            throw PocketVLMError.artifact(
                "a graph gives \(name) of the shape \(shape)", expected: "\(expected)")
        }
        return data.withUnsafeBytes { Array($0.bindMemory(to: T.self).prefix(count)) }
    }
}

/// What ONNX Runtime throws, as a refusal.
private func engineErrors<T>(_ what: String, _ body: () throws -> T) throws -> T {
    do {
        return try freeing(body)
    } catch let error as PocketVLMError {
        throw error
    } catch {
        throw PocketVLMError.engine("\(what) (\(error.localizedDescription))")
    }
}

/// Objective-C's objects that a run leaves behind are freed with it, not with the thread.
private func freeing<T>(_ body: () throws -> T) rethrows -> T {
    #if canImport(ObjectiveC)
        return try autoreleasepool(invoking: body)
    #else
        return try body()
    #endif
}
