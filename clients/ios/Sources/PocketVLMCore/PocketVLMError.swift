// Knows refusals: what was found, what was expected, and what to do about it.

import Foundation

/// A refusal, one line for people.
public struct PocketVLMError: Error, Sendable, Equatable {
    /// What is at fault: the folder, a picture, what was asked for, or ONNX Runtime and the device.
    public enum Kind: String, Sendable {
        case artifact, picture, request, engine
    }

    public let kind: Kind
    /// What was found.
    public let reason: String
    /// What was expected; nil where that says nothing more.
    public let expected: String?
    /// What to do; nil where there is nothing to do.
    public let advice: String?

    init(_ kind: Kind, _ reason: String, expected: String? = nil, advice: String? = nil) {
        self.kind = kind
        self.reason = reason
        self.expected = expected
        self.advice = advice
    }

    static func artifact(
        _ reason: String, expected: String? = nil, advice: String? = "export the artifact again"
    ) -> PocketVLMError {
        PocketVLMError(.artifact, reason, expected: expected, advice: advice)
    }

    static func picture(
        _ reason: String, expected: String? = nil, advice: String? = nil
    ) -> PocketVLMError {
        PocketVLMError(.picture, reason, expected: expected, advice: advice)
    }

    static func request(
        _ reason: String, expected: String? = nil, advice: String? = nil
    ) -> PocketVLMError {
        PocketVLMError(.request, reason, expected: expected, advice: advice)
    }

    static func engine(_ reason: String, advice: String? = nil) -> PocketVLMError {
        PocketVLMError(.engine, reason, advice: advice)
    }
}

extension PocketVLMError: LocalizedError, CustomStringConvertible {
    public var description: String {
        var text = reason
        if let expected { text += "; expected \(expected)" }
        if let advice { text += ": \(advice)" }
        return text
    }

    public var errorDescription: String? { description }
}
