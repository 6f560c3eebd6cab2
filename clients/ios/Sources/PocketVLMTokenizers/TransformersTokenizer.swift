// Knows Hugging Face's swift-transformers, behind what this package asks of a tokenizer.

import Foundation
import PocketVLMCore
import Tokenizers

/// tokenizer.json of an artifact, by swift-transformers.
public struct TransformersTokenizer: TextTokenizer {
    private let tokenizer: any Tokenizer

    /// Read tokenizer.json and tokenizer_config.json of a folder.
    public init(folder: URL) async throws {
        tokenizer = try await AutoTokenizer.from(modelFolder: folder)
    }

    public func encode(_ text: String, addSpecialTokens: Bool) throws -> [Int64] {
        tokenizer.encode(text: text, addSpecialTokens: addSpecialTokens).map(Int64.init)
    }

    public func decode(_ ids: [Int64]) throws -> String {
        tokenizer.decode(tokens: ids.map(Int.init), skipSpecialTokens: true)
    }
}
