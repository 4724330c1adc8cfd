// Runs code with VPOPCNTD/VPOPCNTQ on CPUs that have AVX-512 but not VPOPCNTDQ, for tests.
#pragma once

// Installs a handler of SIGILL that decodes those two instructions (EVEX, every operand form),
// computes them on the state saved in the signal frame, and continues after them. Any other illegal
// instruction ends the process as usual. False if the frame has no AVX-512 state.
bool install_vpopcnt_emulator();

// Instructions computed so far.
long emulated_instructions();
