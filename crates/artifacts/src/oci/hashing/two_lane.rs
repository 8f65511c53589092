//! SHA-256 (FIPS 180-4) of two streams side by side.
//!
//! Each round waits some cycles for the result of the one before, while the processor's SHA unit could begin another.
//! So the rounds of two independent streams are interleaved. Without such a unit, or on another architecture, the
//! streams are hashed one after the other.

#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "intrinsics, used only where the processor is found to have them")
)]

use sha2::block_api::compress256;

/// Size of a SHA-256 block in bytes.
pub(super) const BLOCK: usize = 64;

/// Running hash and the blocks to add to it.
pub(super) type Part<'a> = (&'a mut [u32; 8], &'a [[u8; BLOCK]]);

/// Hashes as many blocks of each stream as both have. Returns how many.
pub(super) fn compress((one, first): Part<'_>, (other, second): Part<'_>) -> usize {
    let both = first.len().min(second.len());
    let (first, second) = (&first[..both], &second[..both]);
    if !side_by_side((one, first), (other, second)) {
        compress256(one, first);
        compress256(other, second);
    }
    both
}

#[cfg(not(target_arch = "x86_64"))]
fn side_by_side(_one: Part<'_>, _other: Part<'_>) -> bool {
    false
}

#[cfg(target_arch = "x86_64")]
fn side_by_side(one: Part<'_>, other: Part<'_>) -> bool {
    let supported =
        is_x86_feature_detected!("sha") && is_x86_feature_detected!("sse4.1") && is_x86_feature_detected!("ssse3");
    if supported {
        // SAFETY: the processor has the features that the function is compiled for.
        unsafe { x86::side_by_side(one, other) };
    }
    supported
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{BLOCK, Part};
    use std::arch::x86_64::{
        __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_set_epi32, _mm_set_epi64x, _mm_setzero_si128,
        _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8, _mm_shuffle_epi32,
    };

    /// Round constants (FIPS 180-4, 4.2.2): four groups of sixteen, four at once.
    const ROUNDS: [[[u32; 4]; 4]; 4] = [
        [
            [0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5],
            [0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5],
            [0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3],
            [0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174],
        ],
        [
            [0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc],
            [0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da],
            [0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7],
            [0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967],
        ],
        [
            [0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13],
            [0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85],
            [0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3],
            [0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070],
        ],
        [
            [0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5],
            [0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3],
            [0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208],
            [0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2],
        ],
    ];

    /// One of the two streams: the state in the order the instructions want it, and sixteen words of the message
    /// schedule.
    struct Lane {
        abef: __m128i,
        cdgh: __m128i,
        words: [__m128i; 4],
    }

    /// Hashes the blocks of both streams, which have the same number.
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    pub(super) fn side_by_side((one, first): Part<'_>, (other, second): Part<'_>) {
        let (mut a, mut b) = (Lane::new(one), Lane::new(other));
        for (block_a, block_b) in first.iter().zip(second) {
            let before = (a.abef, a.cdgh, b.abef, b.cdgh);
            a.load(block_a);
            b.load(block_b);
            let [sixteen, later @ ..] = &ROUNDS;
            for (n, constants) in sixteen.iter().enumerate() {
                a.rounds(n, constants);
                b.rounds(n, constants);
            }
            for sixteen in later {
                for (n, constants) in sixteen.iter().enumerate() {
                    a.schedule(n);
                    b.schedule(n);
                    a.rounds(n, constants);
                    b.rounds(n, constants);
                }
            }
            a.abef = _mm_add_epi32(a.abef, before.0);
            a.cdgh = _mm_add_epi32(a.cdgh, before.1);
            b.abef = _mm_add_epi32(b.abef, before.2);
            b.cdgh = _mm_add_epi32(b.cdgh, before.3);
        }
        (*one, *other) = (a.state(), b.state());
    }

    impl Lane {
        #[target_feature(enable = "sha,sse4.1,ssse3")]
        fn new(state: &[u32; 8]) -> Self {
            let state = state.map(u32::cast_signed);
            let abef = _mm_set_epi32(state[0], state[1], state[4], state[5]);
            let cdgh = _mm_set_epi32(state[2], state[3], state[6], state[7]);
            Self { abef, cdgh, words: [_mm_setzero_si128(); 4] }
        }

        #[target_feature(enable = "sha,sse4.1,ssse3")]
        fn state(&self) -> [u32; 8] {
            let words = [
                _mm_extract_epi32::<3>(self.abef),
                _mm_extract_epi32::<2>(self.abef),
                _mm_extract_epi32::<3>(self.cdgh),
                _mm_extract_epi32::<2>(self.cdgh),
                _mm_extract_epi32::<1>(self.abef),
                _mm_extract_epi32::<0>(self.abef),
                _mm_extract_epi32::<1>(self.cdgh),
                _mm_extract_epi32::<0>(self.cdgh),
            ];
            words.map(i32::cast_unsigned)
        }

        /// Loads the words of a block, which are big-endian.
        #[inline]
        #[target_feature(enable = "sha,sse4.1,ssse3")]
        fn load(&mut self, block: &[u8; BLOCK]) {
            let byte_swap = _mm_set_epi64x(0x0C0D_0E0F_0809_0A0B, 0x0405_0607_0001_0203);
            let (halves, _) = block.as_chunks::<8>();
            for (words, half) in self.words.iter_mut().zip(halves.as_chunks::<2>().0) {
                let [low, high] = half.map(i64::from_le_bytes);
                *words = _mm_shuffle_epi8(_mm_set_epi64x(high, low), byte_swap);
            }
        }

        /// Computes the next four words of the schedule, in place of the oldest.
        #[inline]
        #[target_feature(enable = "sha,sse4.1,ssse3")]
        fn schedule(&mut self, n: usize) {
            let words = &mut self.words;
            let [w0, w1, w2, w3] = [words[n], words[(n + 1) % 4], words[(n + 2) % 4], words[(n + 3) % 4]];
            let sum = _mm_add_epi32(_mm_sha256msg1_epu32(w0, w1), _mm_alignr_epi8::<4>(w3, w2));
            words[n] = _mm_sha256msg2_epu32(sum, w3);
        }

        /// Does four rounds, with the `n`-th four words.
        #[inline]
        #[target_feature(enable = "sha,sse4.1,ssse3")]
        fn rounds(&mut self, n: usize, constants: &[u32; 4]) {
            let [k0, k1, k2, k3] = constants.map(u32::cast_signed);
            let words = _mm_add_epi32(self.words[n], _mm_set_epi32(k3, k2, k1, k0));
            self.cdgh = _mm_sha256rnds2_epu32(self.cdgh, self.abef, words);
            self.abef = _mm_sha256rnds2_epu32(self.abef, self.cdgh, _mm_shuffle_epi32::<0x0E>(words));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_hashes_are_those_each_has_alone() {
        let bytes: Vec<u8> = (0..40 * BLOCK).map(|n| u8::try_from(n * n % 251).unwrap()).collect();
        let (blocks, _) = bytes.as_chunks::<BLOCK>();
        for (first, second) in [(0, 0), (1, 1), (1, 0), (0, 3), (7, 7), (20, 9), (9, 20)] {
            let (first, second) = (&blocks[..first], &blocks[20..20 + second]);
            let start = |from: u32| [0, 1, 2, 3, 4, 5, 6, 7].map(|n: u32| n.wrapping_mul(0x9E37_79B9) ^ from);
            let (mut one, mut other) = (start(1), start(2));
            let (mut alone, mut lonely) = (one, other);
            let both = compress((&mut one, first), (&mut other, second));
            assert_eq!(both, first.len().min(second.len()));
            compress256(&mut alone, &first[..both]);
            compress256(&mut lonely, &second[..both]);
            assert_eq!((one, other), (alone, lonely), "{} and {} blocks", first.len(), second.len());
        }
    }
}
