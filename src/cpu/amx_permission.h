#pragma once

namespace gdn::cpu {

// Whether the processor has AMX's bfloat16 tiles and the kernel of the operating system lets this
// process use them. Linux wants to be asked, once for all threads, because the registers need room
// wherever a thread's are saved; what it answered is kept.
bool amx_permitted();

}  // namespace gdn::cpu
