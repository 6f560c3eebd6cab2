// A photograph from the camera, as a file, so that its orientation comes with it.

import SwiftUI
import UIKit

struct CameraView: UIViewControllerRepresentable {
    static var isThere: Bool { UIImagePickerController.isSourceTypeAvailable(.camera) }

    let taken: (Data) -> Void
    @Environment(\.dismiss) private var dismiss

    func makeUIViewController(context: Context) -> UIImagePickerController {
        let picker = UIImagePickerController()
        picker.sourceType = .camera
        picker.delegate = context.coordinator
        return picker
    }

    func updateUIViewController(_ picker: UIImagePickerController, context: Context) {}

    func makeCoordinator() -> Coordinator { Coordinator(self) }

    final class Coordinator: NSObject, UIImagePickerControllerDelegate,
        UINavigationControllerDelegate
    {
        private let view: CameraView

        init(_ view: CameraView) { self.view = view }

        func imagePickerController(
            _ picker: UIImagePickerController,
            didFinishPickingMediaWithInfo info: [UIImagePickerController.InfoKey: Any]
        ) {
            let image = info[.originalImage] as? UIImage
            if let data = image?.jpegData(compressionQuality: 0.95) { view.taken(data) }
            view.dismiss()
        }

        func imagePickerControllerDidCancel(_ picker: UIImagePickerController) { view.dismiss() }
    }
}
