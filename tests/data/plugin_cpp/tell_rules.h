// Prints what the rules of an exported op say for some sizes, with numbers for expressions.
#include <cstdint>
#include <iostream>
#include <string>
#include <vector>
struct Numbers
{
    using Value = int64_t;
    std::vector<std::vector<int64_t>> shapes;
    Value constant(int64_t number) { return number; }
    Value size(int tensor, int axis) { return shapes[tensor][axis]; }
    Value add(Value a, Value b) { return a + b; }
    Value sub(Value a, Value b) { return a - b; }
    Value mul(Value a, Value b) { return a * b; }
    Value floorDiv(Value a, Value b) { return a < 0 ? -((-a + b - 1) / b) : a / b; }
    Value ceilDiv(Value a, Value b) { return a < 0 ? -(-a / b) : (a + b - 1) / b; }
    Value less(Value a, Value b) { return a < b; }
    Value equal(Value a, Value b) { return a == b; }
    Value choose(Value condition, Value yes, Value no) { return condition * (yes - no) + no; }
};
void list(std::vector<int64_t> const& numbers)
{
    std::cout << "[";
    for (std::size_t i = 0; i < numbers.size(); ++i)
        std::cout << (i ? ", " : "") << numbers[i];
    std::cout << "]";
}
#define TELL(plugin) tell<plugin::Sizes, plugin::Launch>(plugin::makeShapes<Numbers>, \
    plugin::chooseTactic, plugin::makeLaunches, plugin::workspaceBytes
template <typename Sizes, typename Launch, typename Shapes, typename Tactic, typename Made,
    typename Bytes>
void tell(Shapes shapes, Tactic tactic, Made made, Bytes bytes, int variant, int type,
    std::vector<std::vector<int64_t>> const& given)
{
    Sizes in(given);
    Numbers numbers{given};
    std::vector<std::vector<int64_t>> outputs;
    shapes(variant, in.ranks(), numbers, outputs);
    for (auto const& each : outputs) list(each);
    int const chosen = tactic(variant, type, in);
    std::vector<Launch> started;
    std::string problem;
    made(variant, chosen, in, started, problem);
    std::cout << " " << chosen << " " << bytes(variant, in) << " '" << problem << "'";
    for (auto const& each : started)
    {
        std::cout << " " << each.kernel << "," << each.grid << "," << each.block << "," << each.sharedBytes;
        list(each.scalars);
    }
    std::cout << "\n";
}
