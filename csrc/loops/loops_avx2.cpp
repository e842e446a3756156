#define CRFRNN_ISA avx2
#include "loops/loops_impl.hpp"
