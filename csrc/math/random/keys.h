// Keys from a seed and a name: BLAKE2b with a digest of 8 bytes, on the host.
// Source: RFC 7693, sections 2 and 3; the tests compare with hashlib.
#pragma once

#include <cstdint>
#include <cstring>

namespace initstats {

// Hashes what `add` is given, in pieces of any length. Little-endian hosts only, as the module is.
class Blake2b {
 public:
  Blake2b() {
    constexpr uint64_t kDigestBytes = 8, kFanoutAndDepth = 0x01010000;
    memcpy(state_, kStart, sizeof(state_));
    state_[0] ^= kFanoutAndDepth ^ kDigestBytes;
  }

  void add(const void* bytes, size_t n) {
    const char* from = static_cast<const char*>(bytes);
    while (n > 0) {
      if (filled_ == kBlock) {  // only now is it known not to be the last one
        hashed_ += kBlock;
        compress(false);
        filled_ = 0;
      }
      const size_t piece = n < kBlock - filled_ ? n : kBlock - filled_;
      memcpy(block_ + filled_, from, piece);
      filled_ += piece, from += piece, n -= piece;
    }
  }

  // The first 8 bytes of the digest, little-endian. Call once.
  uint64_t digest() {
    hashed_ += filled_;
    memset(block_ + filled_, 0, kBlock - filled_);
    compress(true);
    return state_[0];
  }

 private:
  static constexpr size_t kBlock = 128;
  static constexpr uint64_t kStart[8] = {0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B,
                                         0xA54FF53A5F1D36F1, 0x510E527FADE682D1, 0x9B05688C2B3E6C1F,
                                         0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179};
  static constexpr uint8_t kOrder[10][16] = {
      {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
      {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
      {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
      {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
      {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
      {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
      {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
      {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
      {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
      {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}};

  static uint64_t rotated(uint64_t x, int by) { return x >> by | x << (64 - by); }

  static void mix(uint64_t& a, uint64_t& b, uint64_t& c, uint64_t& d, uint64_t x, uint64_t y) {
    a += b + x;
    d = rotated(d ^ a, 32);
    c += d;
    b = rotated(b ^ c, 24);
    a += b + y;
    d = rotated(d ^ a, 16);
    c += d;
    b = rotated(b ^ c, 63);
  }

  void compress(bool last) {
    constexpr int kRounds = 12;
    uint64_t m[16], v[16];
    memcpy(m, block_, sizeof(m));
    memcpy(v, state_, sizeof(state_));
    memcpy(v + 8, kStart, sizeof(kStart));
    v[12] ^= hashed_;  // of 128 bits, the high ones of which are 0
    if (last) v[14] = ~v[14];
    for (int round = 0; round < kRounds; ++round) {
      const uint8_t(&s)[16] = kOrder[round % 10];
      for (int i = 0; i < 4; ++i)
        mix(v[i], v[4 + i], v[8 + i], v[12 + i], m[s[2 * i]], m[s[2 * i + 1]]);
      for (int i = 0; i < 4; ++i)
        mix(v[i], v[4 + (i + 1) % 4], v[8 + (i + 2) % 4], v[12 + (i + 3) % 4], m[s[8 + 2 * i]],
            m[s[9 + 2 * i]]);
    }
    for (int i = 0; i < 8; ++i) state_[i] ^= v[i] ^ v[8 + i];
  }

  uint64_t state_[8], hashed_ = 0;
  unsigned char block_[kBlock];
  size_t filled_ = 0;
};

// The key of a named tensor: docs/explanation/stream.md. `name` may be null: no name, which is
// another one than "". The domain tag is part of the stream and never changes.
inline uint64_t key_of(uint64_t seed, const char* name, size_t name_bytes) {
  constexpr char kDomain[] = "initstats key v1";
  const char named = name == nullptr ? 0 : 1;
  Blake2b hash;
  hash.add(kDomain, sizeof(kDomain) - 1);
  hash.add(&seed, sizeof(seed));
  hash.add(&named, 1);
  if (name != nullptr) hash.add(name, name_bytes);
  return hash.digest();
}

}  // namespace initstats
