// Knows how a conversation becomes token ids: the chat template's own texts around what people and
// the model wrote, tokenized in one pass, and a picture's slots in the place of its token.

import Foundation

/// A conversation, up to a question that waits for its answer.
public struct Conversation: Sendable {
    /// A question that was answered.
    public struct Turn: Sendable {
        public let question: String
        public let answer: String

        public init(question: String, answer: String) {
            self.question = question
            self.answer = answer
        }
    }

    public var system: String?
    /// What the first question is about; later questions are about it too.
    public var picture: SeenPicture?
    public var turns: [Turn]
    public var question: String

    public init(
        _ question: String, about picture: SeenPicture? = nil, system: String? = nil,
        after turns: [Turn] = []
    ) {
        self.question = question
        self.picture = picture
        self.system = system
        self.turns = turns
    }

    /// The conversation with this question answered, and another one asked.
    public func answered(_ answer: String, then question: String) -> Conversation {
        let turn = Turn(question: self.question, answer: answer)
        return Conversation(question, about: picture, system: system, after: turns + [turn])
    }
}

struct Prompter: Sendable {
    let facts: Facts
    let tokenizer: any TextTokenizer

    /// Ids of a conversation, one image token in the place of its picture.
    func ids(_ conversation: Conversation) throws -> [Int64] {
        let text = try text(conversation)
        // One pass, and no second token for the beginning where the template has written one.
        let begins = facts.tokenizer.specialTokens["bos_token"].map { text.hasPrefix($0) } ?? false
        let ids = try tokenizer.encode(text, addSpecialTokens: !begins)
        let places = ids.filter { $0 == facts.imageTokenId }.count
        guard places == (conversation.picture == nil ? 0 : 1) else {
            throw PocketVLMError.artifact(
                "the tokenizer finds \(places) pictures in the prompt",
                expected: conversation.picture == nil ? "none" : "one",
                advice: "compare its ids with `prompt.ids` of using.json")
        }
        return ids
    }

    /// Refuse a tokenizer that reads the exporter's example otherwise: its answers would be wrong.
    func checkTokenizer() throws {
        let example = facts.prompt
        let begins =
            facts.tokenizer.specialTokens["bos_token"].map { example.text.hasPrefix($0) } ?? false
        let plain = try tokenizer.encode(example.text, addSpecialTokens: !begins)
        let around =
            (facts.around?.before ?? []) + [facts.imageTokenId] + (facts.around?.after ?? [])
        let ids = placed(plain, slot: facts.imageTokenId, picture: around)
        guard ids == example.ids else {
            throw PocketVLMError.artifact(
                "the tokenizer gives \(ids.prefix(40)) for the example of using.json",
                expected: "\(example.ids.prefix(40))",
                advice: "use another implementation of TextTokenizer for this model")
        }
    }

    /// The text that is tokenized.
    func text(_ conversation: Conversation) throws -> String {
        var blanks: [String] = []
        var around: [String]
        let pieces = facts.pieces
        let isPictured = conversation.picture != nil
        if let system = conversation.system {
            around = try known(isPictured ? pieces.systemPicture : pieces.system, "a system text")
            blanks.append(try written(system))
        } else {
            around = try known(
                isPictured ? pieces.questionPicture : pieces.question, "such a question")
        }
        let questions = conversation.turns.map(\.question) + [conversation.question]
        blanks.append(try written(questions[0]))
        for (turn, question) in zip(conversation.turns, questions.dropFirst()) {
            let further = try known(pieces.further, "further questions")
            around = around.dropLast() + further
            blanks.append(reply(turn.answer))
            blanks.append(try written(question))
        }
        return zip(around, blanks).map { $0 + $1 }.joined() + (around.last ?? "")
    }

    private func known(_ texts: [String]?, _ what: String) throws -> [String] {
        guard let texts else {
            throw PocketVLMError.request(
                "the chat template of \(facts.model) takes no \(what) in a fixed way")
        }
        return texts
    }

    /// What a person wrote. An image token in it would be a picture that nobody gave.
    private func written(_ text: String) throws -> String {
        guard !text.contains(facts.tokenizer.imageToken) else {
            throw PocketVLMError.request(
                "the text has \(facts.tokenizer.imageToken) in it", expected: "words alone")
        }
        return facts.pieces.trims ? text.trimmingCharacters(in: .whitespacesAndNewlines) : text
    }

    /// An answer of the model, as templates take it; a spelt out image token is no picture.
    private func reply(_ text: String) -> String {
        var answer = text
        while answer.contains(facts.tokenizer.imageToken) {
            answer = answer.replacingOccurrences(of: facts.tokenizer.imageToken, with: "")
        }
        return answer.trimmingCharacters(in: .whitespacesAndNewlines)
    }
}

/// The ids of a prompt with a picture's own in the place of its token.
func placed(_ ids: [Int64], slot: Int64, picture: [Int64]?) -> [Int64] {
    guard let picture, let at = ids.firstIndex(of: slot) else { return ids }
    return Array(ids[..<at]) + picture + Array(ids[(at + 1)...])
}
