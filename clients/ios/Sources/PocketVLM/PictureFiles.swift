// Knows picture files and Core Graphics: any picture that ImageIO reads becomes upright 8-bit RGB.

import CoreGraphics
import Foundation
import ImageIO
@_exported import PocketVLMCore
@_exported import PocketVLMTokenizers

extension Picture {
    /// A picture file, upright as its EXIF says, its transparency on white.
    ///
    /// - Throws: `CocoaError` for what ImageIO cannot read, or what has more than 100 million
    ///   pixels.
    public init(file data: Data) throws {
        guard let source = CGImageSourceCreateWithData(data as CFData, nil),
            let image = CGImageSourceCreateImageAtIndex(source, 0, nil)
        else { throw CocoaError(.fileReadCorruptFile) }
        let notes = CGImageSourceCopyPropertiesAtIndex(source, 0, nil) as? [CFString: Any]
        let orientation = notes?[kCGImagePropertyOrientation] as? UInt32 ?? 1
        try self.init(image, orientation: Int(orientation))
    }

    /// An image in memory. It is drawn in sRGB; a wide-gamut photograph is converted, which the
    /// Python runtime does not do.
    ///
    /// - Parameter orientation: EXIF's, 1 to 8. `UIImage` and cameras have it beside their pixels.
    public init(_ image: CGImage, orientation: Int = 1) throws {
        let (width, height) = (image.width, image.height)
        guard width > 0, height > 0, width <= 100_000_000 / height,
            let space = CGColorSpace(name: CGColorSpace.sRGB)
        else { throw CocoaError(.fileReadTooLarge) }
        var samples = [UInt8](repeating: 255, count: 4 * width * height)  // white
        let isDrawn = samples.withUnsafeMutableBytes { bytes -> Bool in
            let context = CGContext(
                data: bytes.baseAddress, width: width, height: height, bitsPerComponent: 8,
                bytesPerRow: 4 * width, space: space,
                bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)
            context?.interpolationQuality = .none
            context?.draw(image, in: CGRect(x: 0, y: 0, width: width, height: height))
            return context != nil
        }
        guard isDrawn else { throw CocoaError(.fileReadUnknown) }
        for pixel in 0..<width * height { samples[4 * pixel + 3] = 255 }  // the skipped byte
        try self.init(width: width, height: height, rgba: samples, orientation: orientation)
    }
}

extension VLM {
    /// Load a folder that `pocketvlm export` wrote, with swift-transformers' tokenizer.
    ///
    /// - Throws: `PocketVLMError`, and what the tokenizer throws.
    public static func load(_ folder: URL, options: Options = Options()) async throws -> VLM {
        let tokenizer = try await TransformersTokenizer(folder: folder)
        return try await Task.detached(priority: .userInitiated) {
            try VLM(folder: folder, tokenizer: tokenizer, options: options) {
                try Picture(file: $0)
            }
        }.value
    }
}
