// Knows a picture in memory: upright 8-bit RGB samples; alpha is put on white, EXIF's orientation
// turned.

import Foundation

/// An upright picture of 8-bit red, green and blue samples, row by row.
public struct Picture: Sendable, Equatable {
    public let width: Int
    public let height: Int
    /// 3 * width * height samples.
    public let samples: [UInt8]

    /// A picture of samples that are red, green and blue already.
    ///
    /// - Throws: `PocketVLMError` where the samples are not as many as the size says.
    public init(width: Int, height: Int, rgb samples: [UInt8]) throws {
        try Picture.check(width, height, samples.count, channels: 3)
        self.init(unchecked: samples, width: width, height: height)
    }

    /// A picture of samples with alpha, which is put on white, and turned upright.
    ///
    /// - Parameters:
    ///   - samples: red, green, blue and alpha of each pixel, colours not multiplied by alpha.
    ///   - orientation: EXIF's, 1 to 8; any other number is 1.
    /// - Throws: `PocketVLMError` where the samples are not as many as the size says.
    public init(width: Int, height: Int, rgba samples: [UInt8], orientation: Int = 1) throws {
        try Picture.check(width, height, samples.count, channels: 4)
        var rgb = [UInt8](repeating: 0, count: 3 * width * height)
        for pixel in 0..<width * height {
            let alpha = Int(samples[4 * pixel + 3])
            for channel in 0..<3 {
                let sample = Int(samples[4 * pixel + channel])
                rgb[3 * pixel + channel] = alpha == 255 ? UInt8(sample) : onWhite(sample, alpha)
            }
        }
        self = Picture(unchecked: rgb, width: width, height: height).upright(orientation)
    }

    init(unchecked samples: [UInt8], width: Int, height: Int) {
        self.width = width
        self.height = height
        self.samples = samples
    }

    private static func check(_ width: Int, _ height: Int, _ count: Int, channels: Int) throws {
        let most = 100_000_000  // pixels, as the Python runtime
        guard width > 0, height > 0, width <= most, height <= most / width else {
            throw PocketVLMError.picture(
                "a picture of \(width)x\(height) pixels", expected: "1 to \(most) pixels")
        }
        guard count == channels * width * height else {
            throw PocketVLMError.picture(
                "\(count) samples for \(width)x\(height) pixels",
                expected: "\(channels * width * height)")
        }
    }

    /// The same picture as EXIF's orientation says that it was meant.
    ///
    /// - Parameter orientation: 1 to 8; any other number is 1.
    public func upright(_ orientation: Int) -> Picture {
        guard (2...8).contains(orientation) else { return self }
        let isTurned = orientation >= 5  // rows become columns
        let (newWidth, newHeight) = isTurned ? (height, width) : (width, height)
        var turned = [UInt8](repeating: 0, count: samples.count)
        for y in 0..<newHeight {
            for x in 0..<newWidth {
                let (fromX, fromY) = source(x, y, orientation)
                let from = 3 * (fromY * width + fromX)
                let to = 3 * (y * newWidth + x)
                turned[to] = samples[from]
                turned[to + 1] = samples[from + 1]
                turned[to + 2] = samples[from + 2]
            }
        }
        return Picture(unchecked: turned, width: newWidth, height: newHeight)
    }

    /// Where the pixel (x, y) of the upright picture lies in this one.
    private func source(_ x: Int, _ y: Int, _ orientation: Int) -> (Int, Int) {
        switch orientation {
        case 2: (width - 1 - x, y)
        case 3: (width - 1 - x, height - 1 - y)
        case 4: (x, height - 1 - y)
        case 5: (y, x)
        case 6: (y, height - 1 - x)
        case 7: (width - 1 - y, height - 1 - x)
        default: (width - 1 - y, x)
        }
    }

    /// A rectangle of the picture; what lies beyond it is black.
    func cropped(left: Int, top: Int, width newWidth: Int, height newHeight: Int) -> Picture {
        if (left, top, newWidth, newHeight) == (0, 0, width, height) { return self }
        var cut = [UInt8](repeating: 0, count: 3 * newWidth * newHeight)
        let first = max(left, 0)
        let last = min(left + newWidth, width)
        for y in max(top, 0)..<max(min(top + newHeight, height), max(top, 0)) where first < last {
            let from = 3 * (y * width + first)
            let to = 3 * ((y - top) * newWidth + first - left)
            let count = 3 * (last - first)
            cut.replaceSubrange(to..<to + count, with: samples[from..<from + count])
        }
        return Picture(unchecked: cut, width: newWidth, height: newHeight)
    }

    /// The picture in the middle of a square of one colour; an odd remainder goes behind it.
    func padded(_ colour: [Int]) -> Picture {
        let edge = max(width, height)
        if width == height { return self }
        var square = [UInt8](repeating: 0, count: 3 * edge * edge)
        for channel in 0..<3 {
            for pixel in 0..<edge * edge { square[3 * pixel + channel] = UInt8(colour[channel]) }
        }
        let (left, top) = ((edge - width) / 2, (edge - height) / 2)
        for y in 0..<height {
            let to = 3 * ((top + y) * edge + left)
            square.replaceSubrange(
                to..<to + 3 * width, with: samples[3 * y * width..<3 * (y + 1) * width])
        }
        return Picture(unchecked: square, width: edge, height: edge)
    }
}

/// A sample over white, rounded as Pillow's alpha_composite rounds: with 7 further bits.
private func onWhite(_ sample: Int, _ alpha: Int) -> UInt8 {
    if alpha == 0 { return 255 }
    let weighted = (sample * alpha + 255 * (255 - alpha)) << 7
    let rounded = weighted + (0x80 << 7)
    return UInt8((((rounded >> 8) + rounded) >> 8) >> 7)
}
