#define CRFRNN_ISA baseline
#include "loops/loops_impl.hpp"
