// swift-tools-version: 6.0

import PackageDescription

let package = Package(
    name: "PocketVLM",
    platforms: [.iOS(.v17), .macOS(.v14)],
    products: [
        .library(name: "PocketVLM", targets: ["PocketVLM"])
    ],
    dependencies: [
        .package(
            url: "https://github.com/microsoft/onnxruntime-swift-package-manager", from: "1.24.2"),
        .package(url: "https://github.com/huggingface/swift-transformers", from: "1.0.0"),
    ],
    targets: [
        // Plain Foundation and ONNX Runtime: what is compiled and run in tests.
        .target(
            name: "PocketVLMCore",
            dependencies: [
                .product(name: "onnxruntime", package: "onnxruntime-swift-package-manager")
            ]
        ),
        // Hugging Face's tokenizers behind PocketVLMCore's protocol.
        .target(
            name: "PocketVLMTokenizers",
            dependencies: [
                "PocketVLMCore", .product(name: "Tokenizers", package: "swift-transformers"),
            ]
        ),
        // What apps import: both, and pictures by ImageIO and Core Graphics.
        .target(name: "PocketVLM", dependencies: ["PocketVLMCore", "PocketVLMTokenizers"]),
    ],
    swiftLanguageModes: [.v6]
)
