// Knows how a picture becomes what the vision graph reads: padded, resized, cropped, normalised.

import Foundation

/// The steps of a tile, as `picture` of using.json states them.
public struct Steps: Sendable, Decodable {
    /// Red, green and blue of the square that the picture is put in the middle of.
    let padColour: [Int]?
    /// Target of the shorter edge in pixels.
    let shortestEdge: Int?
    /// Height and width, whatever the proportions.
    let resizeTo: [Int]?
    let resample: String
    /// Height and width of what is cut out of the middle.
    let cropTo: [Int]?
    /// Height and width of what comes out; of a picture of any size the largest.
    let size: [Int]
    /// Whether the size follows from the picture.
    let dynamic: Bool
    let scale: Double
    let mean: [Double]
    let std: [Double]

    private enum CodingKeys: String, CodingKey {
        case padColour = "pad_colour"
        case shortestEdge = "shortest_edge"
        case resizeTo = "resize_to"
        case resample
        case cropTo = "crop_to"
        case size, dynamic, scale, mean, std
    }

    /// Raises what cannot be followed, before a picture comes.
    func check() throws {
        guard Filter(rawValue: resample) != nil else {
            throw PocketVLMError.artifact(
                "pictures are resized by the filter \(resample)",
                expected: Filter.allCases.map(\.rawValue).joined(separator: ", "))
        }
        let pairs = [resizeTo, cropTo, size].compactMap { $0 }
        let isSound = pairs.allSatisfy {
            $0.count == 2 && $0.allSatisfy { (1...16_384).contains($0) }
        }
        let colours = padColour ?? [0, 0, 0]
        guard isSound, colours.count == 3, colours.allSatisfy({ (0...255).contains($0) }),
            mean.count == 3, std.count == 3, (1...16_384).contains(shortestEdge ?? 1)
        else {
            throw PocketVLMError.artifact(
                "using.json states no steps that a picture can go through")
        }
    }

    var filter: Filter { Filter(rawValue: resample) ?? .bicubic }

    /// The pixels before normalising.
    func prepared(_ picture: Picture) throws -> Picture {
        var image = padColour.map { picture.padded($0) } ?? picture
        if let (width, height) = try target(image) {
            image = image.resized(width: width, height: height, filter)
        }
        if let cropTo { image = image.centre(height: cropTo[0], width: cropTo[1]) }
        if !dynamic, [image.height, image.width] != size {
            throw PocketVLMError.artifact(
                "a picture is prepared as \(image.height)x\(image.width) pixels",
                expected: "\(size[0])x\(size[1]), which the vision graph reads")
        }
        return image
    }

    /// Width and height that a picture is resized to; nil where it is not.
    private func target(_ image: Picture) throws -> (Int, Int)? {
        guard let edge = shortestEdge else { return resizeTo.map { ($0[1], $0[0]) } }
        let (long, short) = (max(image.width, image.height), min(image.width, image.height))
        let longest = Int(Double(edge * long) / Double(short))  // cut, not rounded
        guard longest <= 16_384 else {
            throw PocketVLMError.picture(
                "a picture of \(image.width)x\(image.height) pixels is too narrow",
                advice: "crop it first")
        }
        return image.width <= image.height ? (edge, longest) : (longest, edge)
    }

    /// `pixel_values` of one prepared picture: 3 planes of height * width.
    func normalised(_ picture: Picture) -> [Float] {
        let area = picture.width * picture.height
        var values = [Float](repeating: 0, count: 3 * area)
        for channel in 0..<3 {
            let table = self.table(channel)
            for pixel in 0..<area {
                values[channel * area + pixel] = table[Int(picture.samples[3 * pixel + channel])]
            }
        }
        return values
    }

    /// What each of 256 samples becomes. Scaled in double precision and then rounded, as
    /// transformers does; the rest is in single precision.
    private func table(_ channel: Int) -> [Float] {
        let (mean, std) = (Float(mean[channel]), Float(std[channel]))
        return (0..<256).map { (Float(Double($0) * scale) - mean) / std }
    }
}

extension Picture {
    /// The middle of the picture, padded with black where it is smaller; an odd remainder goes as
    /// in transformers.
    func centre(height newHeight: Int, width newWidth: Int) -> Picture {
        let fits = newHeight <= height && newWidth <= width
        let paddedWidth = max(newWidth, width)
        let paddedHeight = max(newHeight, height)
        let topPad = fits ? 0 : (paddedHeight - height + 1) / 2
        let leftPad = fits ? 0 : (paddedWidth - width + 1) / 2
        let top = floorHalf(height - newHeight) + topPad
        let left = floorHalf(width - newWidth) + leftPad
        let (bottom, right) = (
            min(top + newHeight, paddedHeight), min(left + newWidth, paddedWidth)
        )
        let (firstTop, firstLeft) = (max(0, top) - topPad, max(0, left) - leftPad)
        return cropped(
            left: firstLeft, top: firstTop, width: right - leftPad - firstLeft,
            height: bottom - topPad - firstTop)
    }
}

private func floorHalf(_ value: Int) -> Int { value >> 1 }
