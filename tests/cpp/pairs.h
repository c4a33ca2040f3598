// All-pairs covering: a short list of draws in which every pair of values of two axes occurs.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace gdn::tests {

constexpr int kOpen = -1;  // an axis without a value yet

// A value for every axis, as an index into its values.
using Draw = std::vector<int>;

// Whether a draw, with some axes open, can be completed to one that is allowed.
using Possible = std::function<bool(const Draw&)>;

// Every pair that `possible` allows with all else open occurs in the result.
std::vector<Draw> cover_pairs(const std::vector<int>& axis_sizes, const Possible& possible,
                              uint64_t seed);

}  // namespace gdn::tests
