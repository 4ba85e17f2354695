// The rules of trtforge::CumSum: shapes, tactic, launches, workspace.
// Written by `trtforge op export --cpp`. Do not edit: export it again.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace trtforge_CumSum_plugin
{

using Ranks = std::vector<int>;

//! The sizes of all inputs: in(tensor, axis).
class Sizes
{
public:
    explicit Sizes(std::vector<std::vector<int64_t>> shapes)
        : mShapes(std::move(shapes))
    {
    }

    int64_t operator()(int tensor, int axis) const
    {
        return mShapes[tensor][axis];
    }

    Ranks ranks() const
    {
        Ranks found;
        for (auto const& shape : mShapes)
        {
            found.push_back(static_cast<int>(shape.size()));
        }
        return found;
    }

private:
    std::vector<std::vector<int64_t>> mShapes;
};

//! How one kernel is started. Scalars are ints of 32 bits in the kernel.
struct Launch
{
    std::string kernel; //!< Which kernel, where the op has several.
    int64_t grid;
    int64_t block;
    int64_t sharedBytes;
    std::vector<int64_t> scalars;
};

inline int64_t floorDiv(int64_t number, int64_t divisor)
{
    if (divisor == 0)
    {
        return 0; // only in a way that is not chosen
    }
    int64_t const quotient = number / divisor;
    return quotient - (number % divisor != 0 && (number < 0) != (divisor < 0));
}

inline int64_t ceilDiv(int64_t number, int64_t divisor)
{
    return -floorDiv(-number, divisor);
}

//! Makes the outputs' shapes of expressions that Make builds; false: unknown ranks.
template <typename Make>
bool makeShapes(int variant, Ranks const& ranks, Make& make,
    std::vector<std::vector<typename Make::Value>>& shapes)
{
    using Shape = std::vector<typename Make::Value>;
    if (variant == 0 && ranks == Ranks{3})
    {
        shapes.push_back(Shape{make.size(0, 0), make.size(0, 1), make.size(0, 2)});
        return true;
    }
    if (variant == 1 && ranks == Ranks{3})
    {
        shapes.push_back(Shape{make.size(0, 0), make.size(0, 1), make.size(0, 2)});
        return true;
    }
    if (variant == 2 && ranks == Ranks{3})
    {
        shapes.push_back(Shape{make.size(0, 0), make.size(0, 1), make.size(0, 2)});
        return true;
    }
    return false;
}

//! The number of the tactic, counted from 1; 0: unknown ranks.
inline int chooseTactic(int variant, int type, Sizes const& in)
{
    Ranks const ranks = in.ranks();
    if (variant == 0 && ranks == Ranks{3})
    {
        switch (type)
        {
        case 0: // float32
            return static_cast<int>(INT64_C(1));
        case 1: // float16
            return static_cast<int>(INT64_C(1));
        case 2: // bfloat16
            return static_cast<int>(INT64_C(1));
        case 3: // int32
            return static_cast<int>(INT64_C(1));
        case 4: // int64
            return static_cast<int>(INT64_C(1));
        default: return 0;
        }
    }
    if (variant == 1 && ranks == Ranks{3})
    {
        switch (type)
        {
        case 0: // float32
            return static_cast<int>(INT64_C(1));
        case 1: // float16
            return static_cast<int>(INT64_C(1));
        case 2: // bfloat16
            return static_cast<int>(INT64_C(1));
        case 3: // int32
            return static_cast<int>(INT64_C(1));
        case 4: // int64
            return static_cast<int>(INT64_C(1));
        default: return 0;
        }
    }
    if (variant == 2 && ranks == Ranks{3})
    {
        switch (type)
        {
        case 0: // float32
            return static_cast<int>(INT64_C(1));
        case 1: // float16
            return static_cast<int>(INT64_C(1));
        case 2: // bfloat16
            return static_cast<int>(INT64_C(1));
        case 3: // int32
            return static_cast<int>(INT64_C(1));
        case 4: // int64
            return static_cast<int>(INT64_C(1));
        default: return 0;
        }
    }
    return 0;
}

//! Makes the launches; false: the op refuses these sizes, problem says why.
inline bool makeLaunches(
    int variant, int tactic, Sizes const& in, std::vector<Launch>& made, std::string& problem)
{
    Ranks const ranks = in.ranks();
    problem = "it was not exported for inputs of these ranks, or this tactic";
    if (variant == 0 && tactic == 1 && ranks == Ranks{3})
    { // block 128, items 4
        problem.clear();
        if ((INT64_C(1) < (in(0, 0) * in(0, 1)))) {
            made.push_back({"rows", (in(0, 0) * in(0, 1)), INT64_C(128), INT64_C(0), {(in(0, 0) * in(0, 1)), in(0, 2), INT64_C(1)}});
        } else {
            made.push_back({"rows", INT64_C(1), INT64_C(128), INT64_C(0), {(in(0, 0) * in(0, 1)), in(0, 2), INT64_C(1)}});
        }
        return problem.empty();
    }
    if (variant == 1 && tactic == 1 && ranks == Ranks{3})
    { // block 128, items 4
        problem.clear();
        if ((in(0, 2) == INT64_C(1))) {
            if ((INT64_C(1) < (in(0, 0) * in(0, 2)))) {
                made.push_back({"rows", (in(0, 0) * in(0, 2)), INT64_C(128), INT64_C(0), {(in(0, 0) * in(0, 2)), in(0, 1), in(0, 2)}});
            } else {
                made.push_back({"rows", INT64_C(1), INT64_C(128), INT64_C(0), {(in(0, 0) * in(0, 2)), in(0, 1), in(0, 2)}});
            }
        } else {
            if ((INT64_C(1) < ceilDiv((in(0, 0) * in(0, 2)), INT64_C(128)))) {
                made.push_back({"columns", ceilDiv((in(0, 0) * in(0, 2)), INT64_C(128)), INT64_C(128), INT64_C(0), {(in(0, 0) * in(0, 2)), in(0, 1), in(0, 2)}});
            } else {
                made.push_back({"columns", INT64_C(1), INT64_C(128), INT64_C(0), {(in(0, 0) * in(0, 2)), in(0, 1), in(0, 2)}});
            }
        }
        return problem.empty();
    }
    if (variant == 2 && tactic == 1 && ranks == Ranks{3})
    { // block 128, items 4
        problem.clear();
        if ((in(0, 2) == INT64_C(1))) {
            if ((INT64_C(1) < (in(0, 0) * in(0, 2)))) {
                made.push_back({"rows", (in(0, 0) * in(0, 2)), INT64_C(128), INT64_C(0), {(in(0, 0) * in(0, 2)), in(0, 1), in(0, 2)}});
            } else {
                made.push_back({"rows", INT64_C(1), INT64_C(128), INT64_C(0), {(in(0, 0) * in(0, 2)), in(0, 1), in(0, 2)}});
            }
        } else {
            if ((INT64_C(1) < ceilDiv((in(0, 0) * in(0, 2)), INT64_C(128)))) {
                made.push_back({"columns", ceilDiv((in(0, 0) * in(0, 2)), INT64_C(128)), INT64_C(128), INT64_C(0), {(in(0, 0) * in(0, 2)), in(0, 1), in(0, 2)}});
            } else {
                made.push_back({"columns", INT64_C(1), INT64_C(128), INT64_C(0), {(in(0, 0) * in(0, 2)), in(0, 1), in(0, 2)}});
            }
        }
        return problem.empty();
    }
    return false;
}

//! The bytes of scratch memory that the kernels need.
inline int64_t workspaceBytes(int variant, Sizes const& in)
{
    Ranks const ranks = in.ranks();
    if (variant == 0 && ranks == Ranks{3})
    {
        return INT64_C(0);
    }
    if (variant == 1 && ranks == Ranks{3})
    {
        return INT64_C(0);
    }
    if (variant == 2 && ranks == Ranks{3})
    {
        return INT64_C(0);
    }
    return 0;
}

} // namespace trtforge_CumSum_plugin
