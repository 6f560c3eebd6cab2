// Knows what this package asks of a tokenizer, and how ids become text piece by piece.

import Foundation

/// A tokenizer. `PocketVLMTokenizers` has one over Hugging Face's swift-transformers; another is a
/// type with these two functions.
public protocol TextTokenizer: Sendable {
    /// Ids of a text in one pass; special tokens in the text are read as such.
    ///
    /// - Parameter addSpecialTokens: whether the tokenizer puts its own around the text.
    func encode(_ text: String, addSpecialTokens: Bool) throws -> [Int64]

    /// The text of ids, special tokens left out.
    func decode(_ ids: [Int64]) throws -> String
}

/// Turns ids into pieces of text; a piece is held back while a later token may change it.
///
/// Only the last tokens are decoded with each new one, so a token costs the same however many came
/// before.
struct Detokenizer {
    private let tokenizer: any TextTokenizer
    private var ids: [Int64] = []
    /// Where the tokens begin that are decoded again, and where those whose text was not given out.
    private var window = 0
    private var pending = 0
    private var given = ""

    init(_ tokenizer: any TextTokenizer) {
        self.tokenizer = tokenizer
    }

    /// The text that is certain after this token; may be empty.
    mutating func push(_ id: Int64) throws -> String {
        ids.append(id)
        let before = try tokenizer.decode(Array(ids[window..<pending]))
        let after = try tokenizer.decode(Array(ids[window...]))
        let (old, new) = (before.unicodeScalars, after.unicodeScalars)
        guard new.count > old.count, new.starts(with: old), new.last != "\u{FFFD}" else {
            return ""
        }
        let piece = String(new.dropFirst(old.count))
        window = pending
        pending = ids.count
        given += piece
        return piece
    }

    /// What was held back, and the whole text.
    mutating func finish() throws -> (piece: String, text: String) {
        let text = try tokenizer.decode(ids)
        let isContinued = text.unicodeScalars.starts(with: given.unicodeScalars)
        let piece =
            isContinued ? String(text.unicodeScalars.dropFirst(given.unicodeScalars.count)) : ""
        given += piece
        return (piece, text)
    }
}
