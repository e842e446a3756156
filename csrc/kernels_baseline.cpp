#define CRFRNN_ISA baseline
#include "kernels_impl.hpp"
