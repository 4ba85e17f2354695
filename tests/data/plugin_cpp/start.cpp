// Does what the plugin of GroupNorm does in TensorRT's enqueue, and prints its codes.
#include "kernels.h"
#include <iostream>
using namespace trtforge_GroupNorm_plugin;
int main()
{
    for (std::size_t i = 0; i < kCODE_COUNT; ++i)
    {
        auto const* bytes = reinterpret_cast<unsigned char const*>(kCODES[i].data);
        uint32_t sum = 0;
        for (std::size_t at = 0; at < kCODES[i].size; ++at) sum = sum * 31 + bytes[at];
        std::cout << kCODES[i].sm << " " << kCODES[i].ptx << " " << kCODES[i].size << " " << sum << " "
                  << int(bytes[kCODES[i].size]) << std::endl;
    }
    Sizes in({{2, 8, 4, 4}, {8}, {8}});
    std::vector<Launch> launches;
    std::string problem;
    makeLaunches(0, chooseTactic(0, 0, in), in, launches, problem);
    Call call{{(void*) 2, (void*) 4, (void*) 6}, {(void*) 8}, (void*) 10, (CUstream) 0x77};
    problem = start(0, 0, 1, "entry", launches, call);
    std::cout << "problem '" << problem << "'" << std::endl;
}
