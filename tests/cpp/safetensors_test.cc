// safetensors files come back as they were written, and no damage to one does more than give a
// message.
#include "verify/safetensors.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

namespace gdn::verify {
namespace {

std::vector<std::byte> bytes_of(const std::string& text) {
  const auto* p = reinterpret_cast<const std::byte*>(text.data());
  return {p, p + text.size()};
}

// A file of this header and data.
std::vector<std::byte> file_of(const std::string& header, const std::string& data) {
  std::string text(8, '\0');
  for (size_t i = 0; i < 8; ++i) text[i] = static_cast<char>(header.size() >> (8 * i));
  return bytes_of(text + header + data);
}

// The message of a file that must not be read.
std::string message_of(const std::vector<std::byte>& bytes) {
  SafetensorsFile file;
  const Status status = SafetensorsFile::parse(bytes, "f", &file);
  EXPECT_FALSE(status.ok());
  EXPECT_TRUE(file.entries().empty());
  return status.message();
}

std::string message_of(const std::string& header, const std::string& data) {
  return message_of(file_of(header, data));
}

// Reads every byte that a view shows, so that ASan sees a view beyond its memory.
unsigned touch(const SafetensorsFile& file) {
  unsigned sum = 0;
  for (const SafetensorsEntry& entry : file.entries()) {
    if (!entry.view.given()) continue;
    const auto* p = static_cast<const unsigned char*>(entry.view.data);
    for (int64_t i = 0; i < entry.view.size() * size_of(entry.view.dtype); ++i) sum += p[i];
  }
  return sum;
}

class SafetensorsTest : public ::testing::Test {
 protected:
  std::string path() const {
    return ::testing::TempDir() + "gdn_safetensors_" +
           ::testing::UnitTest::GetInstance()->current_test_info()->name();
  }
  void TearDown() override { std::remove(path().c_str()); }

  std::vector<std::byte> written_bytes() const {
    std::ifstream in(path(), std::ios::binary);
    return bytes_of({std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()});
  }

  // One tensor of every dtype; the half-width and one-byte ones have odd sizes.
  void write_sample() {
    ASSERT_TRUE(write_safetensors(path(),
                                  {{"flags", TensorView(flags_, {3})},
                                   {"half", TensorView(half_, DType::kF16, {3})},
                                   {"bf", TensorView(half_, DType::kBF16, {1, 3})},
                                   {"x", TensorView(floats_, {2, 3})},
                                   {"i", TensorView(ints_, {2})},
                                   {"scalar", TensorView(floats_, DType::kF32, {})},
                                   {"none", TensorView(floats_, {0, 4})},
                                   {"l", TensorView(longs_, {1})}},
                                  {{"note", "a \"quoted\" one"}})
                    .ok());
  }

  const float floats_[6] = {1, 2, 3, 4, 5, 6};
  const uint16_t half_[3] = {0x3c00, 0x4000, 0x1};
  const int32_t ints_[2] = {-1, 7};
  const int64_t longs_[1] = {int64_t{1} << 40};
  const bool flags_[3] = {true, false, true};
};

TEST_F(SafetensorsTest, WhatIsWrittenIsRead) {
  write_sample();
  SafetensorsFile file;
  const Status status = SafetensorsFile::open(path(), &file);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(file.entries().size(), 8u);
  EXPECT_EQ(file.metadata().at("note"), "a \"quoted\" one");
  const TensorView x = file.view("x");
  ASSERT_EQ(x.rank, 2);
  EXPECT_EQ(x.shape[1], 3);
  EXPECT_EQ(x.dtype, DType::kF32);
  EXPECT_EQ(std::memcmp(x.data, floats_, sizeof floats_), 0);
  EXPECT_EQ(file.view("bf").dtype, DType::kBF16);
  EXPECT_EQ(file.view("half").dtype, DType::kF16);
  EXPECT_EQ(std::memcmp(file.view("half").data, half_, sizeof half_), 0);
  EXPECT_EQ(std::memcmp(file.view("l").data, longs_, sizeof longs_), 0);
  EXPECT_EQ(std::memcmp(file.view("i").data, ints_, sizeof ints_), 0);
  EXPECT_EQ(std::memcmp(file.view("flags").data, flags_, sizeof flags_), 0);
  EXPECT_EQ(file.view("scalar").rank, 0);
  EXPECT_EQ(file.view("scalar").size(), 1);
  EXPECT_EQ(file.view("none").size(), 0);
  EXPECT_FALSE(file.view("absent").given());
  for (const SafetensorsEntry& entry : file.entries()) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(entry.view.data) % size_of(entry.view.dtype), 0u);
  }
}

TEST_F(SafetensorsTest, StridedViewsAreWrittenContiguous) {
  std::vector<float> wide(4 * 8);
  for (size_t i = 0; i < wide.size(); ++i) wide[i] = static_cast<float>(i);
  const TensorView slice = TensorView(wide.data() + 2, {4, 3}).with_strides({8, 1});
  const TensorView turned = TensorView(wide.data(), {8, 4}).with_strides({1, 8});
  ASSERT_TRUE(write_safetensors(path(), {{"slice", slice}, {"turned", turned}}).ok());
  SafetensorsFile file;
  ASSERT_TRUE(SafetensorsFile::open(path(), &file).ok());
  const auto* s = static_cast<const float*>(file.view("slice").data);
  const auto* t = static_cast<const float*>(file.view("turned").data);
  for (int i = 0; i < 12; ++i) EXPECT_EQ(s[i], static_cast<float>(i / 3 * 8 + 2 + i % 3));
  for (int i = 0; i < 32; ++i) EXPECT_EQ(t[i], static_cast<float>(i % 4 * 8 + i / 4));
}

TEST_F(SafetensorsTest, WritingRefusesWhatCannotBeRead) {
  const TensorView x(floats_, {6});
  EXPECT_FALSE(write_safetensors(path(), {{"x", x}, {"x", x}}).ok());
  EXPECT_FALSE(write_safetensors(path(), {{"__metadata__", x}}).ok());
  EXPECT_FALSE(write_safetensors(path(), {{"x", TensorView()}}).ok());
  EXPECT_FALSE(write_safetensors(path(), {{"\xff\xfe", x}}).ok());
  EXPECT_FALSE(write_safetensors("/nowhere/at/all", {{"x", x}}).ok());
}

TEST_F(SafetensorsTest, TruncationAtEveryByteIsAnError) {
  write_sample();
  const std::vector<std::byte> whole = written_bytes();
  ASSERT_GT(whole.size(), 100u);
  for (size_t n = 0; n < whole.size(); ++n) {
    // Memory of its own for each length: a read beyond it is seen.
    const std::vector<std::byte> part(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(n));
    const std::string message = message_of(part);
    EXPECT_NE(message.find("byte"), std::string::npos) << message;
    EXPECT_EQ(message.find("f: "), 0u) << message;
  }
}

TEST_F(SafetensorsTest, ByteFlipsAreErrorsOrHarmless) {
  write_sample();
  const std::vector<std::byte> whole = written_bytes();
  unsigned sum = 0;
  const auto read = [&](const std::vector<std::byte>& bytes) {
    SafetensorsFile file;
    const Status status = SafetensorsFile::parse(bytes, "f", &file);
    if (status.ok()) {
      sum += touch(file);
    } else {
      EXPECT_EQ(status.message().find("f: "), 0u);
      EXPECT_TRUE(file.entries().empty());
    }
  };
  for (size_t i = 0; i < whole.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::vector<std::byte> bytes = whole;
      bytes[i] ^= std::byte{1} << bit;
      read(bytes);
    }
  }
  std::mt19937 random(1);
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::byte> bytes = whole;
    for (unsigned n = 1 + random() % 4; n > 0; --n) {
      bytes[random() % bytes.size()] =
          random() % 2 ? static_cast<std::byte>(random()) : bytes[random() % bytes.size()];
    }
    read(bytes);
  }
  EXPECT_NE(sum, 0u);
}

TEST_F(SafetensorsTest, EveryMistakeHasItsMessage) {
  const auto one = [](const std::string& dtype, const std::string& shape,
                      const std::string& offsets) {
    return R"({"x":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" +
           offsets + "}}";
  };
  const std::string four(4, '\0');
  SafetensorsFile file;
  ASSERT_TRUE(SafetensorsFile::parse(file_of(one("F32", "[1]", "[0,4]"), four), "f", &file).ok());
  ASSERT_TRUE(SafetensorsFile::parse(file_of("{}", ""), "f", &file).ok());

  EXPECT_EQ(message_of(std::vector<std::byte>(5)),
            "f: the file ends at byte 5, expected 8 bytes of header length");
  EXPECT_EQ(message_of(bytes_of(std::string("\x20\0\0\0\0\0\0\0{}", 10))),
            "f: header length 32 at byte 0, but the file ends at byte 10");
  EXPECT_EQ(message_of(std::vector<std::byte>(8, std::byte{0xff})),
            "f: header length 18446744073709551615 at byte 0, expected 100000000 at most");
  EXPECT_EQ(message_of("{,}", ""), "f: header is no JSON at byte 9");
  EXPECT_EQ(message_of("[]", ""), "f: header at byte 8 is no JSON object");
  EXPECT_EQ(message_of(R"({"x":3})", ""), "f: tensor \"x\" at byte 9: no object");
  EXPECT_EQ(message_of(R"({"x":{"dtype":"F32","shape":[1]}})", four),
            "f: tensor \"x\" at byte 9: has no data_offsets");
  EXPECT_EQ(message_of(one("F33", "[1]", "[0,4]"), four),
            "f: tensor \"x\" at byte 9: unknown dtype \"F33\"");
  for (const char* shape : {"[-1]", "[1.5]", "1", "[\"1\"]", "[9223372036854775808]"}) {
    EXPECT_EQ(message_of(one("F32", shape, "[0,4]"), four),
              "f: tensor \"x\" at byte 9: shape is no list of non-negative integers");
  }
  for (const char* offsets : {"[0]", "[0,4,4]", "[-4,0]", "{}"}) {
    EXPECT_EQ(message_of(one("F32", "[1]", offsets), four),
              "f: tensor \"x\" at byte 9: data_offsets is no pair of non-negative integers");
  }
  EXPECT_EQ(message_of(one("F32", "[1]", "[4,8]"), four),
            "f: tensor \"x\" at byte 9: data_offsets [4,8], expected an interval in [0,4]");
  EXPECT_EQ(message_of(one("F32", "[1]", "[4,0]"), four),
            "f: tensor \"x\" at byte 9: data_offsets [4,0], expected an interval in [0,4]");
  EXPECT_EQ(message_of(one("F32", "[2]", "[0,4]"), four),
            "f: tensor \"x\" at byte 9: data_offsets [0,4] are 4 bytes, but shape [2] of F32 takes "
            "8");
  for (const char* shape : {"[4294967296,4294967296]", "[0,4294967296,4294967296]"}) {
    EXPECT_NE(message_of(one("F32", shape, "[0,4]"), four).find("takes more"), std::string::npos);
  }
  const std::string pair =
      R"({"a":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]},"x":{"dtype":)";
  EXPECT_EQ(message_of(pair + R"("BF16","shape":[1],"data_offsets":[1,3]}})", std::string(3, '\0')),
            "f: tensor \"x\" at byte 63: data begins at byte 118, which is not aligned to its "
            "elements of 2 bytes");
  EXPECT_EQ(message_of(pair + R"("U8","shape":[1],"data_offsets":[0,1]}})", std::string(1, '\0')),
            "f: tensor \"x\" begins at byte 115, inside of tensor \"a\"");
  EXPECT_EQ(message_of(pair + R"("U8","shape":[1],"data_offsets":[2,3]}})", std::string(3, '\0')),
            "f: bytes 116 to 117, before tensor \"x\", belong to no tensor");
  EXPECT_EQ(message_of(pair + R"("U8","shape":[1],"data_offsets":[1,2]}})", std::string(3, '\0')),
            "f: the file goes on after its last tensor, at byte 117");
  EXPECT_EQ(
      message_of(pair + R"("BOOL","shape":[1],"data_offsets":[1,2]}})", std::string("\1\2", 2)),
      "f: tensor \"x\": BOOL 2 at byte 118, expected 0 or 1");
  EXPECT_EQ(message_of(R"({"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"x":{}})", ""),
            "f: tensor \"x\" stands twice, first at byte 9");
  EXPECT_EQ(message_of(R"({"__metadata__":{"a":1}})", ""),
            "f: __metadata__ \"a\" at byte 25 is no string");
}

TEST_F(SafetensorsTest, OtherDTypesAreListedButNotViewed) {
  SafetensorsFile file;
  const Status status = SafetensorsFile::parse(
      file_of(R"({"d":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},)"
              R"("e":{"dtype":"F8_E4M3","shape":[1,1,1],"data_offsets":[8,9]},)"
              R"("r":{"dtype":"F32","shape":[1,1,1,1,1,1,0],"data_offsets":[9,9]}})",
              std::string(9, '\0')),
      "f", &file);
  EXPECT_FALSE(status.ok());  // r is not aligned
  const Status better = SafetensorsFile::parse(
      file_of(R"({"d":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},)"
              R"("e":{"dtype":"F8_E4M3","shape":[1,1,1],"data_offsets":[8,9]},)"
              R"("r":{"dtype":"F32","shape":[1,1,1,1,1,1,0],"data_offsets":[0,0]}})",
              std::string(9, '\0')),
      "f", &file);
  ASSERT_TRUE(better.ok()) << better.message();
  for (const char* name : {"d", "e", "r"}) {
    ASSERT_NE(file.find(name), nullptr);
    EXPECT_FALSE(file.view(name).given());
  }
}

// An odd header length leaves the data at an odd byte of the file; the views are aligned all the
// same.
TEST_F(SafetensorsTest, OddHeadersAreRead) {
  const std::string header = R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  for (size_t pad = 0; pad < 8; ++pad) {
    SafetensorsFile file;
    ASSERT_TRUE(
        SafetensorsFile::parse(
            file_of(header + std::string(pad, ' '), std::string("\0\0\x80\x3f", 4)), "f", &file)
            .ok());
    EXPECT_EQ(*static_cast<const float*>(file.view("x").data), 1.0f);
  }
}

TEST_F(SafetensorsTest, PathsThatAreNoFileAreErrors) {
  SafetensorsFile file;
  EXPECT_NE(SafetensorsFile::open("/nowhere/x", &file).message().find("No such file"),
            std::string::npos);
  EXPECT_FALSE(SafetensorsFile::open(::testing::TempDir(), &file).ok());
}

}  // namespace
}  // namespace gdn::verify
