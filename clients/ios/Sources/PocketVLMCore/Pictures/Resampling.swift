// Knows Pillow's resampling of 8-bit samples, bit for bit: along rows, then along columns, each
// with coefficients in fixed point that have 22 bits behind the point.

import Foundation

/// One of Pillow's filters, by its name.
public enum Filter: String, Sendable, Codable, CaseIterable {
    case box, bilinear, hamming, bicubic, lanczos

    /// Half the width of the filter in pixels of the picture that is made.
    var support: Double {
        switch self {
        case .box: 0.5
        case .bilinear, .hamming: 1
        case .bicubic: 2
        case .lanczos: 3
        }
    }

    /// The weight of a sample so far from the middle.
    func weight(_ distance: Double) -> Double {
        let x = abs(distance)
        switch self {
        case .box: return distance > -0.5 && distance <= 0.5 ? 1 : 0
        case .bilinear: return x < 1 ? 1 - x : 0
        case .hamming:
            if x == 0 { return 1 }
            if x >= 1 { return 0 }
            return sinc(x) * (0.54 + 0.46 * cos(x * Double.pi))
        case .bicubic: return cubic(x)
        case .lanczos:
            return distance >= -3 && distance < 3 ? sinc(distance) * sinc(distance / 3) : 0
        }
    }
}

private func sinc(_ x: Double) -> Double {
    x == 0 ? 1 : sin(x * Double.pi) / (x * Double.pi)
}

/// Keys' cubic convolution with a = -0.5, of a distance that is not negative.
private func cubic(_ x: Double) -> Double {
    let a = -0.5
    if x < 1 { return ((a + 2) * x - (a + 3)) * x * x + 1 }
    if x < 2 { return (((x - 5) * x + 8) * x - 4) * a }
    return 0
}

private let fractionBits: Int32 = 22

/// Which samples each sample of a longer or shorter line is made of.
private struct Coefficients {
    var starts: [Int] = []
    var counts: [Int] = []
    /// Rows of `most` weights, in fixed point.
    var weights: [Int32] = []
    let most: Int

    init(_ filter: Filter, from old: Int, to new: Int) {
        let scale = Double(old) / Double(new)
        let widening = max(scale, 1)
        let support = filter.support * widening
        most = Int(support.rounded(.up)) * 2 + 1
        weights = [Int32](repeating: 0, count: new * most)
        let narrowing = 1 / widening
        var line = [Double](repeating: 0, count: most)
        for position in 0..<new {
            let centre = (Double(position) + 0.5) * scale
            let start = max(Int(centre - support + 0.5), 0)
            let count = min(Int(centre + support + 0.5), old) - start
            var sum = 0.0
            for at in 0..<count {
                let distance = (Double(at + start) - centre + 0.5) * narrowing
                line[at] = filter.weight(distance)
                sum += line[at]
            }
            for at in 0..<count {
                let weight = sum == 0 ? line[at] : line[at] / sum
                let scaled = weight * Double(1 << fractionBits)
                weights[position * most + at] = Int32(scaled + (scaled < 0 ? -0.5 : 0.5))
            }
            starts.append(start)
            counts.append(count)
        }
    }
}

extension Picture {
    /// The picture in another size, whatever its proportions.
    public func resized(width newWidth: Int, height newHeight: Int, _ filter: Filter) -> Picture {
        // As Pillow from 13 on: the result between the passes is rounded, so their order matters.
        let losesRows = newHeight < height && height - newHeight > 2 * (width - newWidth)
        if losesRows {
            return resizedColumns(newHeight, filter).resizedRows(newWidth, filter)
        }
        return resizedRows(newWidth, filter).resizedColumns(newHeight, filter)
    }

    private func resizedRows(_ newWidth: Int, _ filter: Filter) -> Picture {
        if newWidth == width { return self }
        let lines = Coefficients(filter, from: width, to: newWidth)
        var made = [UInt8](repeating: 0, count: 3 * newWidth * height)
        samples.withUnsafeBufferPointer { old in
            lines.weights.withUnsafeBufferPointer { weights in
                for y in 0..<height {
                    let row = 3 * y * width
                    for x in 0..<newWidth {
                        let first = row + 3 * lines.starts[x]
                        let to = 3 * (y * newWidth + x)
                        let sums = weighted(
                            old, first, step: 3, weights, x * lines.most, lines.counts[x])
                        made[to] = clipped(sums.0)
                        made[to + 1] = clipped(sums.1)
                        made[to + 2] = clipped(sums.2)
                    }
                }
            }
        }
        return Picture(unchecked: made, width: newWidth, height: height)
    }

    private func resizedColumns(_ newHeight: Int, _ filter: Filter) -> Picture {
        if newHeight == height { return self }
        let lines = Coefficients(filter, from: height, to: newHeight)
        var made = [UInt8](repeating: 0, count: 3 * width * newHeight)
        samples.withUnsafeBufferPointer { old in
            lines.weights.withUnsafeBufferPointer { weights in
                for y in 0..<newHeight {
                    let row = 3 * lines.starts[y] * width
                    for x in 0..<width {
                        let to = 3 * (y * width + x)
                        let sums = weighted(
                            old, row + 3 * x, step: 3 * width, weights, y * lines.most,
                            lines.counts[y])
                        made[to] = clipped(sums.0)
                        made[to + 1] = clipped(sums.1)
                        made[to + 2] = clipped(sums.2)
                    }
                }
            }
        }
        return Picture(unchecked: made, width: width, height: newHeight)
    }
}

/// Sums of red, green and blue samples, each times its weight, from a rounding half on.
@inline(__always)
private func weighted(
    _ samples: UnsafeBufferPointer<UInt8>, _ first: Int, step: Int,
    _ weights: UnsafeBufferPointer<Int32>, _ line: Int, _ count: Int
) -> (Int32, Int32, Int32) {
    var sums: (Int32, Int32, Int32)
    let half: Int32 = 1 << (fractionBits - 1)
    sums = (half, half, half)
    var at = first
    for number in 0..<count {
        let weight = weights[line + number]
        sums.0 &+= Int32(samples[at]) &* weight
        sums.1 &+= Int32(samples[at + 1]) &* weight
        sums.2 &+= Int32(samples[at + 2]) &* weight
        at += step
    }
    return sums
}

@inline(__always)
private func clipped(_ sum: Int32) -> UInt8 {
    UInt8(min(max(sum >> fractionBits, 0), 255))
}
