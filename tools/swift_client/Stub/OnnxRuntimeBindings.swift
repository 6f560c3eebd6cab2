// Stands in for ONNX Runtime's Objective-C package, which is for Apple's systems alone: the same
// types and signatures as objectivec/include, and each run is computed by the real ONNX Runtime at
// the other end of a pipe.

import Foundation

public enum ORTLoggingLevel: Int32 {
    case verbose, info, warning, error, fatal
}

public enum ORTTensorElementDataType: Int32 {
    case undefined, float, int8, uInt8, int32, uInt32, int64, uInt64, string
}

public final class ORTEnv {
    public init(loggingLevel: ORTLoggingLevel) throws {}
}

public func ORTIsCoreMLExecutionProviderAvailable() -> Bool { true }

public final class ORTSessionOptions {
    var threads: Int32 = 0
    var provider = "cpu"

    public init() throws {}

    public func setIntraOpNumThreads(_ intraOpNumThreads: Int32) throws {
        threads = intraOpNumThreads
    }

    public func appendCoreMLExecutionProvider(withOptionsV2 options: [AnyHashable: Any]) throws {
        provider = "coreml"
    }
}

public final class ORTRunOptions {
    public init() throws {}
}

public final class ORTTensorTypeAndShapeInfo {
    public var elementType: ORTTensorElementDataType
    public var shape: [NSNumber]

    init(_ elementType: ORTTensorElementDataType, _ shape: [NSNumber]) {
        self.elementType = elementType
        self.shape = shape
    }
}

public final class ORTValue {
    private let data: NSMutableData
    private let info: ORTTensorTypeAndShapeInfo

    public init(
        tensorData: NSMutableData, elementType: ORTTensorElementDataType, shape: [NSNumber]
    ) throws {
        let needed = shape.reduce(1) { $0 * $1.intValue } * (elementType == .int64 ? 8 : 4)
        if tensorData.length < needed { throw PipeError("not enough space for a tensor") }
        data = tensorData
        info = ORTTensorTypeAndShapeInfo(elementType, shape)
    }

    public func tensorData() throws -> NSMutableData { data }

    public func tensorTypeAndShapeInfo() throws -> ORTTensorTypeAndShapeInfo { info }

    var sent: PipeTensor {
        let count = info.shape.reduce(1) { $0 * $1.intValue }
        let type = info.elementType == .int64 ? "int64" : "float32"
        let bytes = Data(bytes: data.bytes, count: count * (type == "int64" ? 8 : 4))
        return PipeTensor(type: type, shape: info.shape.map(\.intValue), data: bytes)
    }
}

public final class ORTSession {
    private let number: Int
    private let names: [String: [String]]

    public init(env: ORTEnv, modelPath: String, sessionOptions: ORTSessionOptions?) throws {
        let request: [String: Any] = [
            "do": "open", "path": modelPath, "threads": Int(sessionOptions?.threads ?? 0),
            "provider": sessionOptions?.provider ?? "cpu",
        ]
        let reply = try Pipe.shared.ask(request).header
        guard let number = reply["session"] as? Int else { throw PipeError("no session") }
        self.number = number
        names = reply.compactMapValues { $0 as? [String] }
    }

    deinit { _ = try? Pipe.shared.ask(["do": "close", "session": number]) }

    public func inputNames() throws -> [String] { names["inputs"] ?? [] }

    public func outputNames() throws -> [String] { names["outputs"] ?? [] }

    public func run(
        withInputs inputs: [String: ORTValue], outputNames: Set<String>, runOptions: ORTRunOptions?
    ) throws -> [String: ORTValue] {
        let request: [String: Any] = [
            "do": "run", "session": number, "outputs": outputNames.sorted(),
        ]
        let reply = try Pipe.shared.ask(request, inputs.mapValues(\.sent))
        return try reply.tensors.mapValues { tensor in
            let data = NSMutableData(data: tensor.data)
            return try ORTValue(
                tensorData: data, elementType: tensor.type == "int64" ? .int64 : .float,
                shape: tensor.shape.map { NSNumber(value: $0) })
        }
    }
}
