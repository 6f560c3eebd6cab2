// Stands in for swift-transformers' module Tokenizers: the signatures that the client calls.

import Foundation

public protocol Tokenizer: Sendable {
    func encode(text: String, addSpecialTokens: Bool) -> [Int]
    func decode(tokens: [Int], skipSpecialTokens: Bool) -> String
}

public enum AutoTokenizer {
    public static func from(modelFolder: URL, strict: Bool = true) async throws -> Tokenizer {
        throw CocoaError(.featureUnsupported)
    }
}
