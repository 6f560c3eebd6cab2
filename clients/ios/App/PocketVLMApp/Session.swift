// Knows what the screen shows: a model, a picture, a conversation about it.

import Foundation
import Observation
import PocketVLM

@MainActor
@Observable
final class Session {
    private(set) var model: VLM?
    private(set) var picture: SeenPicture?
    private(set) var answer = ""
    private(set) var status = "Loading the model"
    private(set) var isAnswering = false
    /// Visual tokens of each tile; the squares are redrawn at once, without the model.
    var budget = 1.0
    var question = "What is in the picture?"
    /// The picture as it is drawn, upright.
    private(set) var shown: Data?

    private var conversation: Conversation?
    private var task: Task<Void, Never>?

    /// The folder `Model` of the app: what `pocketvlm export` wrote, added as a folder reference.
    func load() async {
        guard model == nil else { return }
        guard let folder = Bundle.main.url(forResource: "Model", withExtension: nil) else {
            status = "Add the folder that pocketvlm export wrote to the app, named Model."
            return
        }
        do {
            let loaded = try await VLM.load(folder)
            model = loaded
            budget = Double(loaded.budgets.upperBound)
            status = ""
        } catch {
            status = "\(error)"
        }
    }

    /// Encode a picture file; what was asked about the one before is over.
    func look(at file: Data) {
        stop()
        shown = file
        (picture, conversation, answer) = (nil, nil, "")
        guard let model else { return }
        task = Task {
            do {
                let opened = try await Task.detached { try Picture(file: file) }.value
                picture = try await model.see(opened)
                status =
                    picture.map {
                        String(format: "Encoded in %.0f ms", $0.preprocessMs + $0.visionMs)
                    } ?? ""
            } catch {
                status = "\(error)"
            }
        }
    }

    /// Ask the question, as a further one where others were asked about this picture.
    func ask() {
        guard let model, let picture, !isAnswering else { return }
        let further = answer.isEmpty ? nil : conversation?.answered(answer, then: question)
        let asked = further ?? Conversation(question, about: picture)
        (conversation, answer, isAnswering) = (asked, "", true)
        task = Task {
            do {
                for try await event in model.stream(asked, budget: Int(budget)) {
                    switch event {
                    case .text(let piece): answer += piece
                    case .end(let whole): status = figures(whole)
                    }
                }
            } catch {
                status = "\(error)"
            }
            isAnswering = false
        }
    }

    func stop() {
        task?.cancel()
        isAnswering = false
    }

    /// Squares of the kept patches, in pixels of the picture.
    var squares: [Area] { (try? picture?.squares(budget: Int(budget))) ?? [] }

    private func figures(_ answer: Answer) -> String {
        String(
            format: "%d tokens read, %d of them cached; first token %.0f ms, %.0f ms for the rest",
            answer.promptTokens, answer.cachedTokens, answer.prefillMs, answer.decodeMs)
    }
}
