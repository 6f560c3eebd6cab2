// The one screen: a picture with its kept patches, a question, a slider, the answer as it comes.

import PhotosUI
import PocketVLM
import SwiftUI

struct AskView: View {
    @Bindable var session: Session
    @State private var item: PhotosPickerItem?
    @State private var isCameraShown = false

    var body: some View {
        NavigationStack {
            Form {
                Section {
                    if let data = session.shown { PatchesView(file: data, session: session) }
                    HStack {
                        PhotosPicker("Photos", selection: $item, matching: .images)
                        Spacer()
                        if CameraView.isThere { Button("Camera") { isCameraShown = true } }
                    }
                }
                if let model = session.model, session.picture != nil {
                    Section("Visual tokens: \(Int(session.budget))") { slider(model) }
                    Section("Question") {
                        TextField("Question", text: $session.question).onSubmit(session.ask)
                        Button(session.isAnswering ? "Stop" : "Ask") {
                            session.isAnswering ? session.stop() : session.ask()
                        }
                    }
                }
                if !session.answer.isEmpty {
                    Section("Answer") { Text(session.answer).textSelection(.enabled) }
                }
                if !session.status.isEmpty { Section { Text(session.status).font(.footnote) } }
            }
            .navigationTitle("PocketVLM")
        }
        .onChange(of: item) { _, chosen in
            Task {
                if let data = try? await chosen?.loadTransferable(type: Data.self) {
                    session.look(at: data)
                }
            }
        }
        .fullScreenCover(isPresented: $isCameraShown) {
            CameraView { session.look(at: $0) }.ignoresSafeArea()
        }
    }

    @ViewBuilder
    private func slider(_ model: VLM) -> some View {
        let (least, most) = (Double(model.budgets.lowerBound), Double(model.budgets.upperBound))
        if least < most {
            Slider(value: $session.budget, in: least...most, step: 1)
                .accessibilityLabel("Visual tokens")
        }
    }
}

/// A picture with its kept patches bright and the rest dimmed.
struct PatchesView: View {
    let file: Data
    let session: Session

    var body: some View {
        if let image = UIImage(data: file) {
            Image(uiImage: image).resizable().scaledToFit().overlay { dimmed }
                .accessibilityLabel("The picture, \(session.squares.count) patches kept")
        }
    }

    private var dimmed: some View {
        Canvas { context, size in
            guard let picture = session.picture else { return }
            let (across, down) = (
                size.width / Double(picture.width), size.height / Double(picture.height)
            )
            var dark = Path(CGRect(origin: .zero, size: size))
            for square in session.squares {
                dark.addRect(
                    CGRect(
                        x: square.x * across, y: square.y * down, width: square.width * across,
                        height: square.height * down))
            }
            context.fill(dark, with: .color(.black.opacity(0.65)), style: FillStyle(eoFill: true))
        }
    }
}
