//! Attention against its definition in `f64`, and against itself: the same tokens in other pieces, on other threads, in
//! other company.

use fornax_cpu::attention::{Attention, HeadNorm, Mask, Rope, SelfAttention, attend, attend_padded, attend_ragged};
use fornax_cpu::cache::{CacheType, KvLayer, KvShape};
use fornax_cpu::rows::Rows;
use fornax_cpu::{Isa, Pool};
use half::{bf16, f16};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// What a cache of this type makes of a number.
fn rounded(x: f32, cache_type: CacheType) -> f64 {
    f64::from(match cache_type {
        CacheType::F32 => x,
        CacheType::F16 => f16::from_f32(x).to_f32(),
        CacheType::BF16 => bf16::from_f32(x).to_f32(),
    })
}

/// A layer's shapes and settings, with everything that may be absent.
#[derive(Debug, Clone)]
struct Case {
    sequences: usize,
    kv_heads: usize,
    group: usize,
    head_dim: usize,
    cache_type: CacheType,
    window: Option<usize>,
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

    /// Feeds tokens `from..to` of the sequences given, and returns their outputs, `[sequences, to - from, width]`. The
    /// inputs come as columns of one matrix.
    fn feed(&self, pool: &Pool, isa: Isa, cache: &mut KvLayer, who: &[usize], from: usize, to: usize) -> Vec<f32> {
        let (width, kv_width) = (self.width(), self.case.kv_heads * self.case.head_dim);
        let mut fused = Vec::new();
        for &sequence in who {
            for token in from..to {
                let row = sequence * self.tokens + token;
                fused.extend(&self.q[row * width..][..width]);
                fused.extend(&self.k[row * kv_width..][..kv_width]);
                fused.extend(&self.v[row * kv_width..][..kv_width]);
            }
        }
        let stride = width + 2 * kv_width;
        let half = self.case.rotary_dim / 2;
        let norm = |index: usize| self.case.norm.then(|| HeadNorm { weight: &self.norm[index], epsilon: EPSILON });
        let attention = Attention {
            heads: self.case.kv_heads * self.case.group,
            scale: self.scale(),
            window: self.case.window,
            rope: (half > 0).then(|| Rope {
                cos: &self.cos[from * half..to * half],
                sin: &self.sin[from * half..to * half],
                rotary_dim: 2 * half,
            }),
            query_norm: norm(0),
            key_norm: norm(1),
        };
        let mut out = vec![f32::NAN; who.len() * (to - from) * width];
        let (q, k, v) = (
            Rows::strided(&fused, stride),
            Rows::strided(fused.get(width..).unwrap_or(&[]), stride),
            Rows::strided(fused.get(width + kv_width..).unwrap_or(&[]), stride),
        );
        attend(pool, isa, cache, to - from, q, k, v, &attention, &mut out);
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

    /// The definition, for one token of a sequence and one head.
    fn expected(&self, sequence: usize, token: usize, head: usize) -> Vec<f64> {
        let Case { kv_heads, group, head_dim, cache_type, window, .. } = self.case;
        let row = sequence * self.tokens + token;
        let q = self.prepared(&self.q[row * self.width() + head * head_dim..][..head_dim], token, 0);
        let first = window.map_or(0, |window| (token + 1).saturating_sub(window));
        let place = |token: usize| ((sequence * self.tokens + token) * kv_heads + head / group) * head_dim;
        let scores: Vec<f64> = (first..=token)
            .map(|other| {
                let k = self.prepared(&self.k[place(other)..][..head_dim], other, 1);
                let k = k.iter().map(|&x| rounded(x as f32, cache_type));
                q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() * f64::from(self.scale())
            })
            .collect();
        let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - highest).exp()).collect();
        let total: f64 = weights.iter().sum();
        (0..head_dim)
            .map(|i| {
                let values = (first..=token).map(|other| rounded(self.v[place(other) + i], cache_type));
                weights.iter().zip(values).map(|(weight, value)| weight * value).sum::<f64>() / total
            })
            .collect()
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
        cache_type: [CacheType::F32, CacheType::F16, CacheType::BF16][pick(random, 3)],
        window: (pick(random, 3) == 0).then(|| 1 + pick(random, 70)),
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

/// Outputs of tokens `from..to` out of `[sequences, tokens, width]`.
fn cut(all: &[f32], tokens: usize, width: usize, from: usize, to: usize) -> Vec<f32> {
    all.chunks_exact(tokens * width).flat_map(|sequence| &sequence[from * width..to * width]).copied().collect()
}

#[test]
fn attention_follows_its_definition() {
    let pool = Pool::new(2);
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for round in 0..1800 {
        let case = any_case(&mut random);
        // Mostly short, since the definition is slow; now and then over several pages.
        let tokens = if round % 16 == 0 { random.random_range(60..150) } else { random.random_range(1..24) };
        let data = Data::new(&mut random, case, tokens);
        let who: Vec<usize> = (0..data.case.sequences).collect();
        let heads = data.case.kv_heads * data.case.group;
        let looked: Vec<(usize, usize, usize)> = (0..3)
            .map(|_| (random.random_range(0..who.len()), random.random_range(0..tokens), random.random_range(0..heads)))
            .collect();
        let expected: Vec<Vec<f64>> = looked.iter().map(|&(s, t, h)| data.expected(s, t, h)).collect();
        for isa in Isa::available() {
            let mut cache = KvLayer::new(data.shape(), who.len());
            let out = data.feed(&pool, isa, &mut cache, &who, 0, tokens);
            assert_eq!(cache.len(), tokens);
            for (&(sequence, token, head), expected) in looked.iter().zip(&expected) {
                let at = ((sequence * tokens + token) * heads + head) * data.case.head_dim;
                for (found, expected) in out[at..].iter().zip(expected) {
                    // A rounding of a key that falls the other way moves a score by as much.
                    let tolerance = match data.case.cache_type {
                        CacheType::F32 => 2e-5,
                        CacheType::F16 => 2e-3,
                        CacheType::BF16 => 1.6e-2,
                    };
                    let tolerance = if data.case.norm { 3.0 * tolerance } else { tolerance };
                    let error = (f64::from(*found) - expected).abs();
                    assert!(error < tolerance, "{found} for {expected} at {isa}: {:?}, {tokens} tokens", data.case);
                }
            }
        }
    }
}

/// The same bits for a prompt at once, in pieces and token by token, for sequences alone and together, on one thread and
/// on several.
#[test]
fn results_do_not_depend_on_company() {
    let (alone, many) = (Pool::new(1), Pool::new(4));
    let mut random = ChaCha8Rng::seed_from_u64(2);
    for round in 0..48 {
        let mut case = any_case(&mut random);
        case.window = (round % 5 == 0).then(|| random.random_range(1..900));
        (case.head_dim, case.sequences) = (case.head_dim.min(70), case.sequences.min(2));
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
        let who: Vec<usize> = (0..data.case.sequences).collect();
        let width = data.width();
        for isa in Isa::available() {
            let what = format!("round {round}, {isa}: {tokens} tokens, {:?}", data.case);
            let whole = data.feed(&alone, isa, &mut KvLayer::new(data.shape(), who.len()), &who, 0, tokens);
            let threads = data.feed(&many, isa, &mut KvLayer::new(data.shape(), who.len()), &who, 0, tokens);
            assert_same(&threads, &whole, &what);
            let one = who[random.random_range(0..who.len())];
            let apart = data.feed(&many, isa, &mut KvLayer::new(data.shape(), 1), &[one], 0, tokens);
            assert_same(&apart, &whole[one * tokens * width..][..tokens * width], &what);
            // In pieces, the last tokens one by one.
            let mut cache = KvLayer::new(data.shape(), who.len());
            let mut from = 0;
            while from < tokens {
                let single = tokens < 60 || tokens - from < 8;
                let to = if single { from + 1 } else { tokens.min(from + random.random_range(1..200)) };
                let piece = data.feed(if to % 2 == 0 { &many } else { &alone }, isa, &mut cache, &who, from, to);
                assert_same(&piece, &cut(&whole, tokens, width, from, to), &what);
                from = to;
            }
        }
    }
}

/// Forks, beams and steps back, against sequences that are computed from their beginning.
#[test]
fn sequences_fork_and_step_back() {
    let pool = Pool::new(2);
    let mut random = ChaCha8Rng::seed_from_u64(3);
    for round in 0..60 {
        let mut case = any_case(&mut random);
        case.head_dim = case.head_dim.min(40);
        case.rotary_dim = 0;
        case.sequences = 6;
        let tokens = 100;
        let data = Data::new(&mut random, case, tokens);
        let isa = Isa::available()[round % Isa::available().len()];
        let mut cache = KvLayer::new(data.shape(), 2);
        // For each sequence of the cache, whose token it has at each place.
        let mut histories: Vec<Vec<usize>> = vec![Vec::new(); 2];
        let mut kept: Option<(KvLayer, Vec<Vec<usize>>)> = None;
        for _ in 0..30 {
            match random.random_range(0..6) {
                0 => {
                    let count = random.random_range(1..5);
                    let from: Vec<usize> = (0..count).map(|_| random.random_range(0..histories.len())).collect();
                    cache.select(&from);
                    histories = from.iter().map(|&from| histories[from].clone()).collect();
                }
                1 => {
                    let len = random.random_range(0..=cache.len());
                    cache.truncate(len);
                    histories.iter_mut().for_each(|history| history.truncate(len));
                }
                2 => kept = Some((cache.clone(), histories.clone())),
                3 => {
                    if let Some((layer, other)) = kept.take() {
                        (cache, histories) = (layer, other);
                    }
                }
                _ => {
                    let from = cache.len();
                    let to = (from + random.random_range(1..20)).min(tokens);
                    let who: Vec<usize> = histories.iter().map(|_| random.random_range(0..6)).collect();
                    data.feed(&pool, isa, &mut cache, &who, from, to);
                    for (history, who) in histories.iter_mut().zip(who) {
                        history.resize(to, who);
                    }
                }
            }
            assert_eq!((cache.len(), cache.sequences()), (histories[0].len(), histories.len()));
        }
        let Case { kv_heads, head_dim, cache_type, norm, .. } = data.case;
        let (mut key, mut value) = (vec![0.0; head_dim], vec![0.0; head_dim]);
        for (sequence, history) in histories.iter().enumerate() {
            for (token, &who) in history.iter().enumerate() {
                for head in 0..kv_heads {
                    cache.read(sequence, token, head, &mut key, &mut value);
                    let at = ((who * tokens + token) * kv_heads + head) * head_dim;
                    for i in 0..head_dim {
                        assert_eq!(f64::from(value[i]), rounded(data.v[at + i], cache_type), "round {round}");
                        if !norm {
                            assert_eq!(f64::from(key[i]), rounded(data.k[at + i], cache_type), "round {round}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn full_pages_are_shared() {
    let mut random = ChaCha8Rng::seed_from_u64(4);
    let case = Case {
        sequences: 1,
        kv_heads: 2,
        group: 1,
        head_dim: 16,
        cache_type: CacheType::F16,
        window: None,
        rotary_dim: 0,
        norm: false,
    };
    let data = Data::new(&mut random, case, 72);
    let pool = Pool::new(1);
    let mut cache = KvLayer::new(data.shape(), 1);
    data.feed(&pool, Isa::best(), &mut cache, &[0], 0, 70);
    let page = data.shape().page_bytes();
    assert_eq!((cache.bytes(), page), (3 * page, 2 * 2 * 32 * 2 * 16));
    cache.select(&[0, 0, 0]);
    assert_eq!(cache.bytes(), 3 * page);
    let copy = cache.clone();
    data.feed(&pool, Isa::best(), &mut cache, &[0, 0, 0], 70, 71);
    assert_eq!(cache.bytes(), (2 + 3) * page);
    assert_eq!((copy.len(), copy.bytes()), (70, 3 * page));
    cache.truncate(64);
    assert_eq!(cache.bytes(), 2 * page);
    let pages: Vec<Vec<_>> = (0..2).map(|sequence| cache.pages(sequence).to_vec()).collect();
    let other = KvLayer::from_pages(data.shape(), 64, pages);
    assert_eq!((other.sequences(), other.bytes()), (2, 2 * page));
}

/// `[rows, heads * head_dim]` outputs of the definition for one sequence.
fn self_attention(data: &Data, rows: std::ops::Range<usize>, attention: &SelfAttention<'_>) -> Vec<f64> {
    let SelfAttention { heads, kv_heads, head_dim, scale, mask, .. } = *attention;
    let mut out = Vec::new();
    for i in rows.clone() {
        for head in 0..heads {
            let kv_head = head / (heads / kv_heads);
            let seen = rows.clone().filter(|&j| match mask {
                Mask::Full => true,
                Mask::Causal => j <= i,
                Mask::Window(window) => j <= i && i < j + window,
                Mask::Local(reach) => i.abs_diff(j) <= reach,
            });
            let q = data.prepared(&data.q[(i * heads + head) * head_dim..][..head_dim], i - rows.start, 0);
            let weights: Vec<(usize, f64)> = seen
                .map(|j| {
                    let k = &data.k[(j * kv_heads + kv_head) * head_dim..][..head_dim];
                    let k = data.prepared(k, j - rows.start, 1);
                    let score = q.iter().zip(&k).map(|(q, k)| q * k).sum::<f64>();
                    (j, (score * f64::from(scale)).exp())
                })
                .collect();
            let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
            out.extend((0..head_dim).map(|d| {
                let value = |j: usize| f64::from(data.v[(j * kv_heads + kv_head) * head_dim + d]);
                weights.iter().map(|&(j, weight)| weight * value(j)).sum::<f64>() / total
            }));
        }
    }
    out
}

#[test]
fn ragged_and_padded_sequences_follow_the_definition() {
    let (alone, many) = (Pool::new(1), Pool::new(3));
    let mut random = ChaCha8Rng::seed_from_u64(5);
    for round in 0..700 {
        let mut case = any_case(&mut random);
        (case.sequences, case.norm, case.window, case.cache_type) = (1, false, None, CacheType::F32);
        let lengths: Vec<usize> = (0..random.random_range(1..5))
            .map(|_| if round % 40 == 0 { random.random_range(0..80) } else { random.random_range(0..14) })
            .collect();
        let mut starts = vec![0];
        lengths.iter().for_each(|length| starts.push(starts[starts.len() - 1] + length));
        let rows = starts[lengths.len()];
        let data = Data::new(&mut random, case, rows);
        let half = data.case.rotary_dim / 2;
        let attention = SelfAttention {
            heads: data.case.kv_heads * data.case.group,
            kv_heads: data.case.kv_heads,
            head_dim: data.case.head_dim,
            scale: data.scale(),
            mask: [Mask::Full, Mask::Causal, Mask::Window(1 + round % 9), Mask::Local(round % 7)][round % 4],
            rope: (half > 0).then(|| Rope { cos: &data.cos, sin: &data.sin, rotary_dim: 2 * half }),
        };
        let width = data.width();
        let kv_width = width / data.case.group;
        let expected: Vec<f64> =
            starts.windows(2).flat_map(|pair| self_attention(&data, pair[0]..pair[1], &attention)).collect();
        for isa in Isa::available() {
            let (q, k) = (Rows::new(&data.q, width), Rows::new(&data.k, kv_width));
            let v = Rows::new(&data.v, kv_width);
            let mut out = vec![f32::NAN; rows * width];
            attend_ragged(&alone, isa, q, k, v, &starts, &attention, &mut out);
            for (found, expected) in out.iter().zip(&expected) {
                assert!((f64::from(*found) - expected).abs() < 2e-5, "{found} for {expected}: {:?}", data.case);
            }
            let mut threads = vec![f32::NAN; rows * width];
            attend_ragged(&many, isa, q, k, v, &starts, &attention, &mut threads);
            assert_same(&threads, &out, "threads");

            // The same sequences, each with room behind it where numbers are that must not be seen.
            let seq = lengths.iter().max().copied().unwrap_or(0) + round % 3;
            let spread = |values: &[f32], width: usize| -> Vec<f32> {
                let mut spread = vec![f32::NAN; lengths.len() * seq * width];
                for (i, &length) in lengths.iter().enumerate() {
                    spread[i * seq * width..][..length * width]
                        .copy_from_slice(&values[starts[i] * width..][..length * width]);
                }
                spread
            };
            let (q, k, v) = (spread(&data.q, width), spread(&data.k, kv_width), spread(&data.v, kv_width));
            let (q, k, v) = (Rows::new(&q, width), Rows::new(&k, kv_width), Rows::new(&v, kv_width));
            let mut padded = vec![f32::NAN; lengths.len() * seq * width];
            attend_padded(&many, isa, q, k, v, seq, &lengths, &attention, &mut padded);
            for (i, &length) in lengths.iter().enumerate() {
                let (tokens, rest) = padded[i * seq * width..(i + 1) * seq * width].split_at(length * width);
                assert_same(tokens, &out[starts[i] * width..][..length * width], "padded");
                assert!(rest.iter().all(|&x| x.to_bits() == 0));
            }
        }
    }
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
        window: Some(10),
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
            let out = data.feed(&Pool::new(1), isa, &mut KvLayer::new(data.shape(), 1), &[0], 0, 70);
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
