#define CRFRNN_ISA avx512
#include "loops/loops_impl.hpp"
