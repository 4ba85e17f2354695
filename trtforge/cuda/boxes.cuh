// How much two boxes overlap: upright ones as ONNX's NonMaxSuppression defines it, and turned ones.
#pragma once

namespace trtforge {

// The compiler would fuse products and sums, and near a threshold decide otherwise than the formula.
__device__ __forceinline__ float times(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float plus(float a, float b) { return __fadd_rn(a, b); }

__device__ __forceinline__ bool exceeds(float common, float area, float other, float threshold) {
    if (!(common > 0) || !(area > 0) || !(other > 0)) return false;
    return __fdiv_rn(common, plus(plus(area, other), -common)) > threshold;
}

/** A box by two corners. */
struct Upright {
    static constexpr int kNumbers = 4, kAtOnce = 16;  ///< what a box is made of; comparisons that are written out
    float x0, y0, x1, y1;
    Upright() = default;
    static __device__ __forceinline__ Upright nothing() {
        const float zeros[kNumbers] = {};
        return Upright(zeros, true);
    }
    /** [y, x, y, x] of two opposite corners, or [x, y, width, height] around the centre. */
    __device__ __forceinline__ Upright(const float* from, bool center) {
        if (center) {
            x0 = plus(from[0], -from[2] / 2), x1 = plus(from[0], from[2] / 2);
            y0 = plus(from[1], -from[3] / 2), y1 = plus(from[1], from[3] / 2);
        } else {
            x0 = fminf(from[1], from[3]), x1 = fmaxf(from[1], from[3]);
            y0 = fminf(from[0], from[2]), y1 = fmaxf(from[0], from[2]);
        }
    }
    __device__ __forceinline__ float area() const { return times(plus(x1, -x0), plus(y1, -y0)); }
    __device__ __forceinline__ bool overlaps(const Upright& other, float threshold) const {
        const float width = plus(fminf(x1, other.x1), -fmaxf(x0, other.x0));
        const float height = plus(fminf(y1, other.y1), -fmaxf(y0, other.y0));
        if (!(width > 0 && height > 0)) return false;
        return exceeds(times(width, height), area(), other.area(), threshold);
    }
};

/** A box [x, y, width, height, angle] around its centre; the angle in radians. */
struct Turned {
    static constexpr int kNumbers = 5, kAtOnce = 1;
    float x, y, width, height, cosine, sine;
    Turned() = default;
    static __device__ __forceinline__ Turned nothing() {
        const float zeros[kNumbers] = {};
        return Turned(zeros, true);
    }
    __device__ __forceinline__ Turned(const float* from, bool)
        : x(from[0]), y(from[1]), width(from[2]), height(from[3]), cosine(cosf(from[4])), sine(sinf(from[4])) {}

    /** The common area: the other box, seen from this one, edge by edge cut to this one's width, and
     * the height of each piece cut to this one's height. It is continuous in all numbers. */
    __device__ __forceinline__ float common(const Turned& other) const {
        const float dx = other.x - x, dy = other.y - y;
        const float cx = dx * cosine + dy * sine, cy = dy * cosine - dx * sine;
        const float c = other.cosine * cosine + other.sine * sine, s = other.sine * cosine - other.cosine * sine;
        const float ux = other.width / 2 * c, uy = other.width / 2 * s;
        const float vx = -other.height / 2 * s, vy = other.height / 2 * c;
        const float xs[4] = {cx + ux + vx, cx - ux + vx, cx - ux - vx, cx + ux - vx};
        const float ys[4] = {cy + uy + vy, cy - uy + vy, cy - uy - vy, cy + uy - vy};
        float area = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) area -= below(xs[i], ys[i], xs[(i + 1) % 4], ys[(i + 1) % 4]);
        return area;
    }

    __device__ __forceinline__ bool overlaps(const Turned& other, float threshold) const {
        const float dx = other.x - x, dy = other.y - y;
        const float reach = width * width + height * height, far = other.width * other.width + other.height * other.height;
        if (4 * (dx * dx + dy * dy) > 2 * (reach + far)) return false;  // (a + b)^2 <= 2 (a^2 + b^2)
        return exceeds(common(other), width * height, other.width * other.height, threshold);
    }

private:
    /** The integral of an edge's height over its part between -width / 2 and width / 2. */
    __device__ __forceinline__ float below(float xa, float ya, float xb, float yb) const {
        const float w = width / 2, h = height / 2;
        const float from = fminf(fmaxf(xa, -w), w), to = fminf(fmaxf(xb, -w), w);
        const float slope = xb == xa ? 0.0f : (yb - ya) / (xb - xa);
        const float start = ya + (from - xa) * slope, rise = (to - from) * slope;
        const float inverse = rise == 0 ? 0.0f : 1 / rise;
        const float at_low = fminf(fmaxf((-h - start) * inverse, 0.0f), 1.0f);
        const float at_high = fminf(fmaxf((h - start) * inverse, 0.0f), 1.0f);
        const float t0 = fminf(at_low, at_high), t1 = fmaxf(at_low, at_high);
        const auto cut = [&](float t) { return fminf(fmaxf(start + t * rise, -h), h); };
        const float mean = (cut(0) + cut(t0)) * t0 + (cut(t0) + cut(t1)) * (t1 - t0) + (cut(t1) + cut(1)) * (1 - t1);
        return (to - from) * mean / 2;
    }
};

}  // namespace trtforge
