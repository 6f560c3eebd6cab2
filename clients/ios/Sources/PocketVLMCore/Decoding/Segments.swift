// Knows what a sequence is made of, text and pictures' rows, what two have in common, and how their
// tokens are numbered.

import Foundation

/// A picture's kept tokens in a prompt, or some of them.
struct PictureRows: Sendable {
    /// Those with the same key hold the same rows.
    let key: String
    /// count * hidden numbers.
    let rows: [Float]
    let count: Int
    /// Further rows by name, as many.
    let extras: [String: [Float]]
    /// Numbers of the tokens in the picture's grid, where the decoder reads one grid of them.
    let kept: [Int]
    let grid: TokenGrid?
    /// Whether it is of the same picture as the one before, with text between them.
    let continues: Bool
}

enum Segment: Sendable {
    case text([Int64])
    case picture(PictureRows)

    var count: Int {
        switch self {
        case .text(let ids): ids.count
        case .picture(let rows): rows.count
        }
    }
}

extension Array where Element == Segment {
    var tokens: Int { reduce(0) { $0 + $1.count } }

    /// The same with neighbouring stretches of text made one, and empty ones left out.
    var joined: [Segment] {
        var result: [Segment] = []
        for segment in self where segment.count > 0 {
            if case .text(let ids) = segment, case .text(let before)? = result.last {
                result[result.count - 1] = .text(before + ids)
            } else {
                result.append(segment)
            }
        }
        return result
    }

    /// Tokens that two joined sequences begin with alike; a picture counts whole or not at all.
    func common(with other: [Segment]) -> Int {
        var length = 0
        for (left, right) in zip(self, other) {
            let same = left.common(with: right)
            length += same
            if same < left.count || same < right.count { break }
        }
        return length
    }

    /// The first tokens of a sequence; a picture that would be cut is left out, with what follows.
    func first(_ length: Int) -> [Segment] {
        var result: [Segment] = []
        var left = length
        for segment in self where left > 0 {
            if segment.count <= left {
                result.append(segment)
            } else if case .text(let ids) = segment {
                result.append(.text([Int64](ids.prefix(left))))
            }
            left -= segment.count
        }
        return result
    }

    /// The sequence without its first tokens, which end at a picture's edge or in text.
    func without(first length: Int) -> [Segment] {
        var result: [Segment] = []
        var skipped = length
        for segment in self {
            if skipped <= 0 {
                result.append(segment)
            } else if case .text(let ids) = segment, ids.count > skipped {
                result.append(.text([Int64](ids.dropFirst(skipped))))
            }
            skipped -= segment.count
        }
        return result
    }
}

extension Segment {
    fileprivate func common(with other: Segment) -> Int {
        switch (self, other) {
        case (.text(let left), .text(let right)):
            return zip(left, right).prefix { $0 == $1 }.count
        case (.picture(let left), .picture(let right)):
            return left.key == right.key && left.kept == right.kept && left.count == right.count
                ? left.count : 0
        default: return 0
        }
    }
}

/// How tokens are numbered.
struct Numbering: Sendable {
    /// Numbers that each token has: one, or with M-RoPE its time, row and column.
    let axes: Int
    /// The number of the first token.
    let first: Int

    /// Planes of numbers of these segments from `start` on, and the number of what follows.
    ///
    /// M-RoPE (Qwen2-VL, arXiv 2409.12191, section 2.1): kept tokens stay where they are in the
    /// whole picture, and text goes on where that would have ended.
    func planes(_ segments: [Segment], from start: Int) throws -> (planes: [[Int64]], next: Int) {
        var planes = [[Int64]](repeating: [], count: axes)
        var next = start
        for segment in segments {
            if case .picture(let rows) = segment, axes > 1 {
                guard axes == 3, let grid = rows.grid, rows.kept.allSatisfy({ $0 < grid.tokens })
                else {
                    throw PocketVLMError.artifact(
                        "a picture comes without the rows and columns of its tokens")
                }
                for token in rows.kept {
                    planes[0].append(Int64(next))
                    planes[1].append(Int64(next + token / grid.columns))
                    planes[2].append(Int64(next + token % grid.columns))
                }
                next += max(grid.rows, grid.columns)
            } else {
                for plane in 0..<axes {
                    planes[plane] += (next..<next + segment.count).map(Int64.init)
                }
                next += segment.count
            }
        }
        return (planes, next)
    }
}
