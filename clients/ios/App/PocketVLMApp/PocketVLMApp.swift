import SwiftUI

@main
struct PocketVLMApp: App {
    @State private var session = Session()

    var body: some Scene {
        WindowGroup {
            AskView(session: session).task { await session.load() }
        }
    }
}
