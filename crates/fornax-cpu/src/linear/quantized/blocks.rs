//! The blocks of GGUF's quantized types, taken apart into numbers. It is the only place that knows how the bits of a file
//! are arranged; what the numbers are good for is its users' matter.

use crate::packed::WeightType;

/// The numbers of the blocks of one super of a row: of one block of 256, or of up to two blocks of 32.
#[derive(Debug, Clone)]
pub struct Numbers {
    /// The weights, with the type's bias added; 8-bit weights are the bits of an `i8`.
    pub values: [u8; 256],
    /// f16 scales of the two blocks, or the one factor of the scales of a block of 256.
    pub scale: [u16; 2],
    /// The same of the minima.
    pub min: [u16; 2],
    /// Scales of the groups of a block of 256.
    pub group_scale: [u8; 16],
    /// Minima of the groups of a block of 256.
    pub group_min: [u8; 16],
}

impl Numbers {
    /// Nothing but zeros.
    pub const ZERO: Numbers =
        Numbers { values: [0; 256], scale: [0; 2], min: [0; 2], group_scale: [0; 16], group_min: [0; 16] };

    /// Reads the blocks of one super; what is missing of a second block stays as it was.
    pub fn read(&mut self, weight_type: WeightType, source: &[u8]) {
        match weight_type {
            WeightType::Q2_K => self.read_q2_k(source),
            WeightType::Q3_K => self.read_q3_k(source),
            WeightType::Q4_K | WeightType::Q5_K => self.read_q4_k_or_q5_k(weight_type, source),
            WeightType::Q6_K => self.read_q6_k(source),
            _ => {
                for (index, block) in source.chunks_exact(weight_type.row_bytes(32)).enumerate() {
                    self.read_block(weight_type, index, block);
                }
            }
        }
    }

    /// Block `index` of the types with blocks of 32.
    #[inline(always)]
    fn read_block(&mut self, weight_type: WeightType, index: usize, block: &[u8]) {
        let values = &mut self.values[32 * index..32 * index + 32];
        self.scale[index] = half(block);
        let body = match weight_type {
            WeightType::Q8_0 => return values.copy_from_slice(&block[2..34]),
            WeightType::Q4_1 | WeightType::Q5_1 => {
                self.min[index] = half(&block[2..]);
                &block[4..]
            }
            _ => &block[2..],
        };
        let nibbles = match weight_type {
            WeightType::Q5_0 | WeightType::Q5_1 => &body[4..20],
            _ => &body[..16],
        };
        let (low, high) = values.split_at_mut(16);
        for ((low, high), &byte) in low.iter_mut().zip(high).zip(nibbles) {
            *low = byte & 15;
            *high = byte >> 4;
        }
        if matches!(weight_type, WeightType::Q5_0 | WeightType::Q5_1) {
            for (byte, values) in values.chunks_exact_mut(8).enumerate() {
                for (bit, value) in values.iter_mut().enumerate() {
                    *value |= (body[byte] >> bit & 1) << 4;
                }
            }
        }
    }

    fn read_q2_k(&mut self, block: &[u8]) {
        for (group, &byte) in block[..16].iter().enumerate() {
            self.group_scale[group] = byte & 15;
            self.group_min[group] = byte >> 4;
        }
        self.read_two_bits(&block[16..80]);
        self.scale[0] = half(&block[80..]);
        self.min[0] = half(&block[82..]);
    }

    fn read_q3_k(&mut self, block: &[u8]) {
        self.read_two_bits(&block[32..96]);
        for (step, values) in self.values.chunks_exact_mut(32).enumerate() {
            for (value, &mask) in values.iter_mut().zip(&block[..32]) {
                *value |= (mask >> step & 1) << 2;
            }
        }
        let scales = &block[96..108];
        for group in 0..16 {
            let low = scales[group % 8] >> (4 * (group / 8)) & 15;
            let high = scales[8 + group % 4] >> (2 * (group / 4)) & 3;
            self.group_scale[group] = (low | high << 4).wrapping_sub(32);
        }
        self.scale[0] = half(&block[108..]);
    }

    /// 64 bytes of two-bit numbers: each run of 32 bytes has 128 of them, 32 in each pair of bits.
    #[inline(always)]
    fn read_two_bits(&mut self, bytes: &[u8]) {
        for (part, values) in self.values.chunks_exact_mut(32).enumerate() {
            let bytes = &bytes[part / 4 * 32..part / 4 * 32 + 32];
            for (value, &byte) in values.iter_mut().zip(bytes) {
                *value = byte >> (2 * (part % 4)) & 3;
            }
        }
    }

    fn read_q4_k_or_q5_k(&mut self, weight_type: WeightType, block: &[u8]) {
        self.scale[0] = half(block);
        self.min[0] = half(&block[2..]);
        let scales = &block[4..16];
        for group in 0..4 {
            self.group_scale[group] = scales[group] & 63;
            self.group_min[group] = scales[group + 4] & 63;
            self.group_scale[group + 4] = scales[group + 8] & 15 | scales[group] >> 6 << 4;
            self.group_min[group + 4] = scales[group + 8] >> 4 | scales[group + 4] >> 6 << 4;
        }
        let nibbles = if weight_type == WeightType::Q5_K { &block[48..176] } else { &block[16..144] };
        for (values, nibbles) in self.values.chunks_exact_mut(64).zip(nibbles.chunks_exact(32)) {
            let (low, high) = values.split_at_mut(32);
            for ((low, high), &byte) in low.iter_mut().zip(high).zip(nibbles) {
                *low = byte & 15;
                *high = byte >> 4;
            }
        }
        if weight_type == WeightType::Q5_K {
            for (step, values) in self.values.chunks_exact_mut(32).enumerate() {
                for (value, &bits) in values.iter_mut().zip(&block[16..48]) {
                    *value |= (bits >> step & 1) << 4;
                }
            }
        }
    }

    fn read_q6_k(&mut self, block: &[u8]) {
        let (low, high) = (&block[..128], &block[128..192]);
        for (half, values) in self.values.chunks_exact_mut(128).enumerate() {
            let (low, high) = (&low[64 * half..64 * half + 64], &high[32 * half..32 * half + 32]);
            for (part, values) in values.chunks_exact_mut(32).enumerate() {
                let low = &low[part % 2 * 32..part % 2 * 32 + 32];
                for ((value, &low), &high) in values.iter_mut().zip(low).zip(high) {
                    *value = low >> (4 * (part / 2)) & 15 | (high >> (2 * part) & 3) << 4;
                }
            }
        }
        self.group_scale.copy_from_slice(&block[192..208]);
        self.scale[0] = half(&block[208..]);
    }
}

fn half(bytes: &[u8]) -> u16 {
    u16::from_le_bytes([bytes[0], bytes[1]])
}
