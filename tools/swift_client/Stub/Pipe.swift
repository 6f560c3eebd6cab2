// Knows the messages of tools/engine_pipe: a header in JSON behind its length, and raw tensors.

import Foundation

public struct PipeError: Error, LocalizedError {
    let message: String

    init(_ message: String) { self.message = message }

    public var errorDescription: String? { message }
}

public struct PipeTensor {
    public let type: String
    public let shape: [Int]
    public let data: Data

    public init(type: String, shape: [Int], data: Data) {
        self.type = type
        self.shape = shape
        self.data = data
    }
}

/// Standard output asks, standard input replies; one question at a time.
public final class Pipe: @unchecked Sendable {
    public static let shared = Pipe()

    private let lock = NSLock()
    private let output = FileHandle.standardOutput
    private let input = FileHandle.standardInput

    public func ask(
        _ header: [String: Any], _ tensors: [String: PipeTensor] = [:]
    ) throws -> (header: [String: Any], tensors: [String: PipeTensor]) {
        lock.lock()
        defer { lock.unlock() }
        try send(header, tensors)
        let reply = try receive()
        if let error = reply.header["error"] as? String { throw PipeError(error) }
        return reply
    }

    private func send(_ header: [String: Any], _ tensors: [String: PipeTensor]) throws {
        let ordered = tensors.sorted { $0.key < $1.key }
        let listed = ordered.map {
            ["name": $0.key, "type": $0.value.type, "shape": $0.value.shape] as [String: Any]
        }
        let stated = header.merging(["tensors": listed]) { first, _ in first }
        let json = try JSONSerialization.data(withJSONObject: stated)
        var message = Data()
        withUnsafeBytes(of: UInt32(json.count).littleEndian) { message.append(contentsOf: $0) }
        message.append(json)
        for (_, tensor) in ordered { message.append(tensor.data) }
        try output.write(contentsOf: message)
    }

    private func receive() throws -> (header: [String: Any], tensors: [String: PipeTensor]) {
        let length = try read(4).withUnsafeBytes {
            UInt32(littleEndian: $0.loadUnaligned(as: UInt32.self))
        }
        let parsed = try JSONSerialization.jsonObject(with: try read(Int(length)))
        guard let header = parsed as? [String: Any] else {
            throw PipeError("a header that is none")
        }
        var tensors: [String: PipeTensor] = [:]
        for stated in header["tensors"] as? [[String: Any]] ?? [] {
            guard let name = stated["name"] as? String, let type = stated["type"] as? String,
                let shape = stated["shape"] as? [Int]
            else { throw PipeError("a tensor that is none") }
            let size = ["int64": 8, "float32": 4, "uint8": 1][type] ?? 0
            tensors[name] = PipeTensor(
                type: type, shape: shape, data: try read(shape.reduce(1, *) * size))
        }
        return (header, tensors)
    }

    private func read(_ count: Int) throws -> Data {
        var data = Data()
        while data.count < count {
            guard let part = try input.read(upToCount: count - data.count), !part.isEmpty else {
                throw PipeError("the pipe is closed")
            }
            data.append(part)
        }
        return data
    }
}
