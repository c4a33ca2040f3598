// Speculative decode by records, in double: what replay_verify() and replay_commit() mean.
//
// The slot of a sequence keeps a state S and, of the tokens that the last call verified, a record
// each: (k, v_new, g). Once the caller knows how many of those tokens were accepted, their effect
// on S follows from the records alone, S <- exp(g) S + v_new k^T, because v_new already holds all
// that a token read from its state. So rejected tokens cost a record and not a state.
#pragma once

#include <cstdint>
#include <vector>

#include "gdn/executor.h"
#include "problem.h"
#include "reference/recurrent.h"

namespace gdn::reference {

// One q/k head of sequence n: its group's value heads, and its records. For each value head:
//   1. S = the slot's state; fold in the first num_accepted[n] records; store S, rounded once;
//   2. verify (if the call does): continue from S, not rounded, over the T tokens, write out;
//   3. replace the records 0 .. T-1 of the slot by the tokens' own, each rounded once; the records
//      from T on stay as they are.
// A sequence that is padding touches no slot, and its rows of out become zero.
void replay(const ReplayProblem& problem, int64_t n, int64_t qk_head, Scratch* scratch);

// What a call computes, not rounded to any tensor's dtype; rows as in DeltaRuleResult. Zero where a
// sequence is padding, and in records from its length on.
struct ReplayResult {
  std::vector<double> out;       // [rows,HV,V]; empty for a commit
  std::vector<double> states;    // [N,HV,V,K]: after the accepted records
  std::vector<double> record_k;  // [N,M,H,K]; these three empty for a commit
  std::vector<double> record_v;  // [N,M,HV,V]
  std::vector<double> record_g;  // [N,M,HV]
};

// The oracle: reads, and writes none of the problem's tensors. May throw std::bad_alloc.
ReplayResult replay(const ReplayProblem& problem, Executor* executor = nullptr);

}  // namespace gdn::reference
