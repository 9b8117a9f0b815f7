//! Attention against its definition in `f64`, and against itself: the same tokens in other pieces, on other threads, in
//! other company.

use fornax_cpu::attention::{Attention, HeadNorm, Mask, Rope, Sequences, attend};
use fornax_cpu::cache::{BLOCK_TOKENS, CacheType, KvArena, KvShape};
use fornax_cpu::rows::Rows;
use fornax_cpu::{Isa, Pool};
use half::{bf16, f16};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// The numbers of a head after rounding to a cache's type.
fn rounded(head: &[f64], cache_type: CacheType) -> Vec<f64> {
    let scale = head.iter().fold(0.0f32, |largest, &x| largest.max((x as f32).abs())) / 127.0;
    let factor = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let one = |x: f32| match cache_type {
        CacheType::F32 => x,
        CacheType::F16 => f16::from_f32(x).to_f32(),
        CacheType::BF16 => bf16::from_f32(x).to_f32(),
        CacheType::I8 => (x * factor).round_ties_even() * scale,
    };
    head.iter().map(|&x| f64::from(one(x as f32))).collect()
}

/// A layer's shapes and settings, with everything that may be absent.
#[derive(Debug, Clone)]
struct Case {
    sequences: usize,
    kv_heads: usize,
    group: usize,
    head_dim: usize,
    cache_type: CacheType,
    mask: Mask,
    soft_cap: Option<f32>,
    rotary_dim: usize,
    norm: bool,
}

/// All tokens of all sequences: `[sequences, tokens, …]`, and what else the layer needs.
struct Data {
    case: Case,
    tokens: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    cos: Vec<f32>,
    sin: Vec<f32>,
    norm: [Vec<f32>; 2],
}

const EPSILON: f32 = 1e-5;

impl Data {
    fn new(random: &mut ChaCha8Rng, case: Case, tokens: usize) -> Self {
        let mut values = |count: usize, size: f32| -> Vec<f32> {
            (0..count).map(|_| (random.random::<f32>() * 2.0 - 1.0) * size).collect()
        };
        let rows = case.sequences * tokens;
        let width = case.kv_heads * case.head_dim;
        let angles: Vec<f32> = values(tokens * case.rotary_dim / 2, 3.0);
        Self {
            tokens,
            q: values(rows * width * case.group, 2.0),
            k: values(rows * width, 2.0),
            v: values(rows * width, 2.0),
            cos: angles.iter().map(|x| x.cos()).collect(),
            sin: angles.iter().map(|x| x.sin()).collect(),
            norm: [values(case.head_dim, 2.0), values(case.head_dim, 2.0)],
            case,
        }
    }

    fn shape(&self) -> KvShape {
        let Case { kv_heads, head_dim, cache_type, .. } = self.case;
        KvShape { kv_heads, head_dim, cache_type }
    }

    /// Query columns.
    fn width(&self) -> usize {
        self.case.kv_heads * self.case.group * self.case.head_dim
    }

    fn scale(&self) -> f32 {
        1.0 / (self.case.head_dim as f32).sqrt()
    }

    /// An arena with room for all sequences, whose blocks are in no order.
    fn arena(&self) -> KvArena {
        KvArena::new(self.shape(), self.case.sequences * self.tokens.div_ceil(BLOCK_TOKENS) + 3).expect("memory")
    }

    /// The blocks of a sequence in that arena.
    fn table(&self, sequence: usize) -> Vec<u32> {
        let each = self.tokens.div_ceil(BLOCK_TOKENS);
        (0..each).map(|index| (2 + (each - 1 - index) * self.case.sequences + sequence) as u32).collect()
    }

    /// Feeds tokens `from..to` of sequences, each `(sequence, from, to)`, and returns their outputs, one part after another.
    fn feed(&self, pool: &Pool, isa: Isa, arena: &mut KvArena, parts: &[(usize, usize, usize)]) -> Vec<f32> {
        let tables: Vec<_> = parts.iter().map(|part| self.table(part.0)).collect();
        let sequences = parts.iter().zip(&tables).map(|(&(_, from, to), table)| (to - from, from, table.as_slice()));
        self.attend(pool, isa, &Sequences::cached(sequences), Some(arena), parts)
    }

    /// Attends from some rows of the data. The inputs come as columns of one matrix.
    fn attend(
        &self,
        pool: &Pool,
        isa: Isa,
        sequences: &Sequences,
        arena: Option<&mut KvArena>,
        parts: &[(usize, usize, usize)],
    ) -> Vec<f32> {
        let Case { kv_heads, group, head_dim, mask, soft_cap, .. } = self.case;
        let (width, kv_width) = (self.width(), kv_heads * head_dim);
        let half = self.case.rotary_dim / 2;
        let (mut fused, mut cos, mut sin) = (Vec::new(), Vec::new(), Vec::new());
        for &(sequence, from, to) in parts {
            for token in from..to {
                let row = sequence * self.tokens + token;
                fused.extend(&self.q[row * width..][..width]);
                fused.extend(&self.k[row * kv_width..][..kv_width]);
                fused.extend(&self.v[row * kv_width..][..kv_width]);
                cos.extend(&self.cos[token * half..][..half]);
                sin.extend(&self.sin[token * half..][..half]);
            }
        }
        let stride = width + 2 * kv_width;
        let norm = |index: usize| self.case.norm.then(|| HeadNorm { weight: &self.norm[index], epsilon: EPSILON });
        let attention = Attention {
            heads: kv_heads * group,
            kv_heads,
            head_dim,
            scale: self.scale(),
            mask,
            soft_cap,
            rope: (half > 0).then(|| Rope { cos: &cos, sin: &sin, rotary_dim: 2 * half }),
            query_norm: norm(0),
            key_norm: norm(1),
        };
        let mut out = vec![f32::NAN; sequences.rows() * width];
        let qkv = [0, width, width + kv_width].map(|from| Rows::strided(fused.get(from..).unwrap_or(&[]), stride));
        attend(pool, isa, sequences, arena, qkv, &attention, &mut out);
        out
    }

    /// A head of a query or key as it is compared.
    fn prepared(&self, head: &[f32], token: usize, norm: usize) -> Vec<f64> {
        let mut head: Vec<f64> = head.iter().map(|&x| f64::from(x)).collect();
        if self.case.norm {
            let mean = head.iter().map(|x| x * x).sum::<f64>() / head.len() as f64;
            for (x, &weight) in head.iter_mut().zip(&self.norm[norm]) {
                *x *= f64::from(weight) / (mean + f64::from(EPSILON)).sqrt();
            }
        }
        let half = self.case.rotary_dim / 2;
        for i in 0..half {
            let (cos, sin) = (f64::from(self.cos[token * half + i]), f64::from(self.sin[token * half + i]));
            (head[i], head[half + i]) = (head[i] * cos - head[half + i] * sin, head[half + i] * cos + head[i] * sin);
        }
        head
    }

    /// The definition, for one token of a sequence of `len` and one head.
    fn expected(&self, sequence: usize, token: usize, len: usize, head: usize, cache_type: CacheType) -> Vec<f64> {
        let Case { kv_heads, group, head_dim, mask, soft_cap, .. } = self.case;
        let row = sequence * self.tokens + token;
        let q = self.prepared(&self.q[row * self.width() + head * head_dim..][..head_dim], token, 0);
        let seen = (0..len).filter(|&other| match mask {
            Mask::Full => true,
            Mask::Causal => other <= token,
            Mask::Window(window) => other <= token && token < other + window,
            Mask::Local(reach) => token.abs_diff(other) <= reach,
        });
        let place = |token: usize| ((sequence * self.tokens + token) * kv_heads + head / group) * head_dim;
        let scored: Vec<(usize, f64)> = seen
            .map(|other| {
                let k = rounded(&self.prepared(&self.k[place(other)..][..head_dim], other, 1), cache_type);
                let score = q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() * f64::from(self.scale());
                (other, soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh()))
            })
            .collect();
        let highest = scored.iter().map(|scored| scored.1).fold(f64::NEG_INFINITY, f64::max);
        let mut out = vec![0.0; head_dim];
        let total: f64 = scored.iter().map(|scored| (scored.1 - highest).exp()).sum();
        for (other, score) in scored {
            let value: Vec<f64> = self.v[place(other)..][..head_dim].iter().map(|&x| f64::from(x)).collect();
            for (out, value) in out.iter_mut().zip(rounded(&value, cache_type)) {
                *out += (score - highest).exp() / total * value;
            }
        }
        out
    }
}

fn any_case(random: &mut ChaCha8Rng) -> Case {
    const DIMS: [usize; 12] = [64, 128, 32, 80, 96, 1, 2, 3, 17, 31, 65, 256];
    let pick = |random: &mut ChaCha8Rng, below: usize| random.random_range(0..below);
    let head_dim = if pick(random, 2) == 0 { DIMS[pick(random, 12)] } else { 1 + pick(random, 150) };
    Case {
        sequences: 1 + pick(random, 3),
        kv_heads: 1 + pick(random, 3),
        group: [1, 1, 2, 3, 4, 7, 8, 16][pick(random, 8)],
        head_dim,
        cache_type: CacheType::ALL[pick(random, 4)],
        mask: if pick(random, 3) == 0 { Mask::Window(1 + pick(random, 70)) } else { Mask::Causal },
        soft_cap: (pick(random, 4) == 0).then_some(1.5),
        rotary_dim: [0, 2 * pick(random, head_dim / 2 + 1), head_dim / 2 * 2][pick(random, 3)],
        norm: pick(random, 3) == 0,
    }
}

/// Equal bit for bit, but for which not-a-number it is.
#[track_caller]
fn assert_same(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(), "{what}: {a} for {b} at {i}");
    }
}

/// The error allowed in a result where a key may be rounded the other way.
fn tolerance(case: &Case) -> f64 {
    let tolerance = match case.cache_type {
        CacheType::F32 => 2e-5,
        CacheType::F16 => 2e-3,
        CacheType::BF16 => 1.6e-2,
        CacheType::I8 => 2e-2,
    };
    if case.norm { 3.0 * tolerance } else { tolerance }
}

#[test]
fn attention_follows_its_definition() {
    let pool = Pool::new(2);
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for round in 0..1800 {
        let case = any_case(&mut random);
        // Mostly short, since the definition is slow; now and then over several blocks.
        let tokens = if round % 16 == 0 { random.random_range(60..150) } else { random.random_range(1..24) };
        let data = Data::new(&mut random, case, tokens);
        let heads = data.case.kv_heads * data.case.group;
        // Sequences of different lengths side by side.
        let parts: Vec<_> = (0..data.case.sequences).map(|who| (who, 0, random.random_range(0..=tokens))).collect();
        let rows: usize = parts.iter().map(|part| part.2).sum();
        for isa in Isa::available() {
            let out = data.feed(&pool, isa, &mut data.arena(), &parts);
            assert_eq!(out.len(), rows * data.width());
            let mut row = 0;
            for &(sequence, _, len) in &parts {
                for token in (0..len).filter(|token| (token + round) % 7 == 0) {
                    let head = (token + round) % heads;
                    let expected = data.expected(sequence, token, len, head, data.case.cache_type);
                    let found = &out[((row + token) * heads + head) * data.case.head_dim..];
                    for (found, expected) in found.iter().zip(&expected) {
                        let error = (f64::from(*found) - expected).abs();
                        let case = &data.case;
                        assert!(error < tolerance(case), "{found} for {expected} at {isa}: {case:?}, {tokens} tokens");
                    }
                }
                row += len;
            }
        }
    }
}

/// Results are the same bit for bit for a prompt at once, in chunks and token by token, for sequences alone and
/// together, and on one thread and several.
#[test]
fn results_do_not_depend_on_company() {
    let (alone, many) = (Pool::new(1), Pool::new(4));
    let mut random = ChaCha8Rng::seed_from_u64(2);
    for round in 0..48 {
        let mut case = any_case(&mut random);
        if round % 5 == 0 {
            case.mask = Mask::Window(random.random_range(1..900));
        }
        case.head_dim = case.head_dim.min(70);
        case.group = case.group.min(8);
        case.rotary_dim = case.rotary_dim.min(case.head_dim / 2 * 2);
        let tokens = if round % 12 == 0 { random.random_range(500..1200) } else { random.random_range(1..140) };
        let mut data = Data::new(&mut random, case, tokens);
        if round % 4 == 1 {
            // Numbers at both ends of the range, and none.
            for _ in 0..8 {
                let at = random.random_range(0..data.v.len());
                data.v[at] = [f32::NAN, f32::INFINITY, 1e-40, -0.0, -1e-38, 0.0][random.random_range(0..6)];
                let at = random.random_range(0..data.k.len());
                data.k[at] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30][random.random_range(0..4)];
            }
        }
        let width = data.width();
        let lengths: Vec<usize> = (0..data.case.sequences).map(|_| random.random_range(1..=tokens)).collect();
        for isa in Isa::available() {
            let what = format!("round {round}, {isa}: {lengths:?} tokens, {:?}", data.case);
            let whole: Vec<_> = (0..lengths.len()).map(|who| (who, 0, lengths[who])).collect();
            let together = data.feed(&alone, isa, &mut data.arena(), &whole);
            let threads = data.feed(&many, isa, &mut data.arena(), &whole);
            assert_same(&threads, &together, &what);
            let mut expected = Vec::new();
            let mut row = 0;
            for &(who, _, len) in &whole {
                expected.push(&together[row * width..(row + len) * width]);
                row += len;
                let apart = data.feed(&many, isa, &mut data.arena(), &[(who, 0, len)]);
                assert_same(&apart, expected[who], &what);
            }
            // In pieces, now these sequences and now those, the last tokens one by one.
            let mut arena = data.arena();
            let mut done = vec![0; lengths.len()];
            while done != lengths {
                let mut parts = Vec::new();
                for (who, &len) in lengths.iter().enumerate() {
                    if random.random_range(0..3) > 0 && done[who] < len {
                        let single = len < 60 || len - done[who] < 8;
                        let most = if single { 1 } else { random.random_range(1..200) };
                        parts.push((who, done[who], len.min(done[who] + most)));
                        done[who] = len.min(done[who] + most);
                    }
                }
                let pool = if random.random_range(0..2) == 0 { &many } else { &alone };
                let out = data.feed(pool, isa, &mut arena, &parts);
                let mut row = 0;
                for &(who, from, to) in &parts {
                    let piece = &out[row * width..(row + to - from) * width];
                    assert_same(piece, &expected[who][from * width..to * width], &what);
                    row += to - from;
                }
            }
        }
    }
}

/// Blocks hold the keys and values written to them, rounded to their type. A copy is independent, and blocks can be
/// saved.
#[test]
fn blocks_hold_and_move_what_was_put_there() {
    let pool = Pool::new(2);
    let mut random = ChaCha8Rng::seed_from_u64(3);
    for round in 0..60 {
        let mut case = any_case(&mut random);
        (case.head_dim, case.rotary_dim, case.norm, case.sequences) = (case.head_dim.min(40), 0, false, 2);
        let tokens = 2 * BLOCK_TOKENS + random.random_range(1..BLOCK_TOKENS);
        let data = Data::new(&mut random, case, tokens);
        let Case { kv_heads, head_dim, cache_type, .. } = data.case;
        let mut arena = data.arena();
        let isa = Isa::available()[round % Isa::available().len()];
        data.feed(&pool, isa, &mut arena, &[(0, 0, tokens), (1, 0, tokens)]);
        let check = |arena: &KvArena, table: &[u32], who: &dyn Fn(usize) -> usize| {
            let (mut key, mut value) = (vec![0.0; head_dim], vec![0.0; head_dim]);
            for (token, head) in (0..tokens).flat_map(|token| (0..kv_heads).map(move |head| (token, head))) {
                let at = ((who(token) * tokens + token) * kv_heads + head) * head_dim;
                arena.read(table[token / BLOCK_TOKENS], token % BLOCK_TOKENS, head, &mut key, &mut value);
                for (found, numbers) in [(&key, &data.k), (&value, &data.v)] {
                    let numbers: Vec<f64> = numbers[at..at + head_dim].iter().map(|&x| f64::from(x)).collect();
                    for (found, expected) in found.iter().zip(rounded(&numbers, cache_type)) {
                        // A scale may come out one bit apart, and a number halfway between integers fall either way.
                        let largest = numbers.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
                        let allowed = if cache_type == CacheType::I8 { 1.01 * largest / 127.0 } else { 0.0 };
                        let error = (f64::from(*found) - expected).abs();
                        assert!(error <= allowed, "round {round}: {found} for {expected}");
                    }
                }
            }
        };
        for who in 0..2 {
            check(&arena, &data.table(who), &|_| who);
        }
        // A fork of the first shares its full blocks, and has a copy of the last that then gets the second's tokens.
        let (mut table, second) = (data.table(0), data.table(1));
        arena.copy_block(table[2], 0);
        table[2] = 0;
        check(&arena, &table, &|_| 0);
        let kept = arena.block(second[2]).to_vec();
        arena.block_mut(0).copy_from_slice(&kept);
        check(&arena, &table, &|token| token / (2 * BLOCK_TOKENS));
        check(&arena, &data.table(0), &|_| 0);
        assert_eq!(kept.len(), data.shape().block_bytes());
    }
}

/// Integers take half of f16's memory, and a little for the scales.
#[test]
fn types_take_the_memory_they_say() {
    let bytes = |cache_type| KvShape { kv_heads: 4, head_dim: 64, cache_type }.block_bytes();
    assert_eq!(bytes(CacheType::F16), 4 * 2 * 64 * BLOCK_TOKENS * 2);
    assert_eq!((bytes(CacheType::F32), bytes(CacheType::BF16)), (2 * bytes(CacheType::F16), bytes(CacheType::F16)));
    assert_eq!(bytes(CacheType::I8), bytes(CacheType::F16) / 2 + 4 * 2 * BLOCK_TOKENS * 4);
    let shape = KvShape { kv_heads: 4, head_dim: 64, cache_type: CacheType::F16 };
    let error = KvArena::new(shape, usize::MAX / 8).expect_err("more than there is").to_string();
    assert!(error.contains("no memory"), "{error}");
    assert!("q8".parse::<CacheType>().expect_err("no such type").to_string().contains("i8"));
}

#[test]
fn whole_sequences_follow_the_definition() {
    let (alone, many) = (Pool::new(1), Pool::new(3));
    let mut random = ChaCha8Rng::seed_from_u64(5);
    for round in 0..700 {
        let mut case = any_case(&mut random);
        case.mask = [Mask::Full, Mask::Causal, Mask::Window(1 + round % 9), Mask::Local(round % 7)][round % 4];
        case.sequences = random.random_range(1..5);
        let longest = if round % 40 == 0 { 80 } else { 14 };
        let data = Data::new(&mut random, case, longest);
        let parts: Vec<_> = (0..data.case.sequences).map(|who| (who, 0, random.random_range(0..=longest))).collect();
        let lengths: Vec<usize> = parts.iter().map(|part| part.2).collect();
        let sequences = Sequences::uncached(&lengths);
        let heads = data.case.kv_heads * data.case.group;
        for isa in Isa::available() {
            let out = data.attend(&alone, isa, &sequences, None, &parts);
            assert_same(&data.attend(&many, isa, &sequences, None, &parts), &out, "threads");
            for &(who, _, len) in &parts {
                let start = sequences.rows_of(who).start;
                for token in (0..len).filter(|token| (token + round) % 3 == 0) {
                    let head = (token + round) % heads;
                    let expected = data.expected(who, token, len, head, CacheType::F32);
                    let found = &out[((start + token) * heads + head) * data.case.head_dim..];
                    for (found, expected) in found.iter().zip(&expected) {
                        let error = (f64::from(*found) - expected).abs();
                        assert!(error < 6e-5, "{found} for {expected} at {isa}: {:?}", data.case);
                    }
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "needs an arena")]
fn a_sequence_does_not_continue_without_an_arena() {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let data =
        Data::new(&mut random, Case { sequences: 1, rotary_dim: 0, ..any_case(&mut ChaCha8Rng::seed_from_u64(7)) }, 3);
    let sequences = Sequences::cached([(1, 2, &[0][..])]);
    data.attend(&Pool::new(1), Isa::best(), &sequences, None, &[(0, 2, 3)]);
}

/// A token that is not a number spoils what sees it, and nothing else.
#[test]
fn numbers_that_are_none_stay_where_they_are_seen() {
    let mut random = ChaCha8Rng::seed_from_u64(6);
    let case = Case {
        sequences: 1,
        kv_heads: 1,
        group: 4,
        head_dim: 20,
        cache_type: CacheType::F32,
        mask: Mask::Window(10),
        soft_cap: None,
        rotary_dim: 0,
        norm: false,
    };
    for (bad, in_key) in [(f32::NAN, true), (f32::NAN, false), (f32::INFINITY, false), (f32::INFINITY, true)] {
        let mut data = Data::new(&mut random, case.clone(), 70);
        let at = 40 * 20 + 7;
        if in_key {
            data.k[at] = bad
        } else {
            data.v[at] = bad
        }
        for isa in Isa::available() {
            let out = data.feed(&Pool::new(1), isa, &mut data.arena(), &[(0, 0, 70)]);
            for (i, &x) in out.iter().enumerate() {
                let (token, component) = (i / 80, i % 20);
                let seen = (40..50).contains(&token) && (in_key || component == 7);
                // A key at infinity takes all weight or none, by the sign of the query.
                let spoiled = if in_key && bad == f32::INFINITY { data.q[i / 20 * 20 + 7] > 0.0 } else { true };
                assert_eq!(x.is_finite(), !(seen && spoiled), "{bad} in a key: {in_key}, token {token} at {isa}");
            }
        }
    }
}
